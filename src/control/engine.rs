//! The engine's commands and answers as this room's requests and replies.
#![forbid(unsafe_code)]

use super::{Reply, Request};
use crate::protocol::Generation;
use crate::replicate::{Answer, Command, Handle, Refused};
use std::time::Duration;

impl From<Request> for Command {
    fn from(request: Request) -> Self {
        match request {
            // The server makes many of the one.
            Request::Status | Request::Watch { .. } => Command::Status,
            Request::SetInterval { ms } => Command::SetInterval(Duration::from_millis(ms)),
            Request::SwitchOver => Command::SwitchOver,
            Request::Protect { host, rsh, remote } => Command::Protect { host, rsh, remote },
            Request::Unprotect { force } => Command::Unprotect { force },
            Request::FailOver { force, generation } => {
                Command::FailOver { force, generation: generation.map(Generation) }
            }
            Request::Drop => Command::Drop,
            Request::Capabilities => Command::Capabilities,
            Request::SetCapability { name, on } => Command::SetCapability { name, on },
        }
    }
}

impl From<Result<Answer, Refused>> for Reply {
    fn from(answer: Result<Answer, Refused>) -> Self {
        match answer {
            Ok(Answer::Done) => Reply::done(),
            Ok(Answer::Status(status)) => Reply::status(*status),
            Ok(Answer::Capabilities { offered, in_use }) => Reply::capabilities(offered, in_use),
            Err(refused) => Reply::error(refused.to_string()),
        }
    }
}

impl Handle {
    /// Asks, and waits for the answer.
    pub fn request(&self, request: Request) -> Reply {
        self.ask(request.into()).unwrap_or(Err(Refused::Ended)).into()
    }
}
