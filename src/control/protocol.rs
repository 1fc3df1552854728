//! Requests and replies.

use crate::remus::wire::Capabilities;
use crate::replicate::{Capability, Status};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use thiserror::Error;

/// What an operator can ask for. As JSON: `{"command":"set-interval","ms":50}`, the names in kebab-case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A [`Status`].
    Status,
    /// A [`Status`] at once and at each interval from then on, until the client closes the connection. Nothing else can be
    /// asked for on it any more. One last status is sent when the server ends.
    Watch {
        /// Milliseconds between two; [`Request::WATCH_DEFAULT`] when absent, within [`Request::WATCH_BOUNDS`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interval_ms: Option<u64>,
    },
    /// Change the interval between checkpoints.
    SetInterval {
        /// Milliseconds, within [`crate::remus::Config::INTERVAL`].
        ms: u64,
    },
    /// Hand the guest to the secondary, without loss.
    SwitchOver,
    /// Take a secondary, while the guest runs.
    Protect {
        /// Where it is, as in `xen-replicate remus`.
        host: String,
        /// What to reach it with, in place of the one in use: a shell command, as in `-s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rsh: Option<String>,
        /// What to run there, in place of the one in use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remote: Option<String>,
    },
    /// Stop protecting and run on.
    Unprotect {
        /// The operator's word that no other copy is or will be active.
        #[serde(default)]
        force: bool,
    },
    /// Go active (secondary).
    FailOver {
        /// The operator's word that the primary is not and will not be active.
        #[serde(default)]
        force: bool,
        /// Of a side that was denied: the newest generation, typed by the operator, whose word it is that no other host runs the domain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
    },
    /// Free the replica of a side that was denied.
    Drop,
    /// The list of [`Capability`].
    Capabilities,
    /// Switch a capability on or off.
    SetCapability {
        /// Its name, or that of micro-checkpointing's.
        name: String,
        /// Which.
        on: bool,
    },
}

/// Why a line is no request.
#[derive(Debug, Error)]
pub enum RequestError {
    /// Not JSON, or not of the form of a request; the text has the column.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A field that the command does not have.
    #[error("unknown field `{field}`: this command has none")]
    Field {
        /// Its name.
        field: String,
    },
    /// A watch interval outside its bounds.
    #[error("an interval_ms of {value} is outside {} to {}", .bounds.start(), .bounds.end())]
    Interval {
        /// What was asked for, in milliseconds.
        value: u64,
        /// What may be.
        bounds: RangeInclusive<u64>,
    },
}

impl Request {
    /// Milliseconds between two states of [`Request::Watch`] unless it says otherwise.
    pub const WATCH_DEFAULT: u64 = 1000;
    /// Bounds of [`Request::Watch`]'s interval, in milliseconds.
    pub const WATCH_BOUNDS: RangeInclusive<u64> = 10..=60_000;

    /// A request from its line. Commands and fields that are not known are refused, not passed over.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn parse(line: &[u8]) -> Result<Request, RequestError> {
        let object: Map<String, Value> = serde_json::from_slice(line)?;
        // serde refuses unknown fields of the other variants, but not of those that have no field at all.
        let extra = object.keys().find(|key| *key != "command").cloned();
        let request = serde_json::from_value(Value::Object(object))?;
        match (&request, extra) {
            (Request::Status | Request::SwitchOver | Request::Capabilities | Request::Drop, Some(field)) => {
                Err(RequestError::Field { field })
            }
            (&Request::Watch { interval_ms: Some(value) }, _) if !Self::WATCH_BOUNDS.contains(&value) => {
                Err(RequestError::Interval { value, bounds: Self::WATCH_BOUNDS })
            }
            _ => Ok(request),
        }
    }
}

/// The answer to a request: `{"ok":true}` with what was asked for, or `{"ok":false,"error":"..."}`.
///
/// That a command is answered with `ok` means that it was accepted. Whether it has come to anything is in the status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it is done or, for what takes time, begun.
    pub ok: bool,
    /// Why not, for a person to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// To [`Request::Status`] and [`Request::Watch`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<Status>>,
    /// To [`Request::Capabilities`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<Capability>>,
}

impl Reply {
    /// Done, and nothing to add.
    pub fn done() -> Reply {
        Reply { ok: true, ..Reply::default() }
    }

    /// Not done.
    pub fn error(text: impl Into<String>) -> Reply {
        Reply { error: Some(text.into()), ..Reply::default() }
    }

    /// A status.
    pub fn status(status: Status) -> Reply {
        Reply { ok: true, status: Some(Box::new(status)), ..Reply::default() }
    }

    /// What this side offers and what the session uses.
    pub fn capabilities(offered: Capabilities, in_use: Capabilities) -> Reply {
        Reply { ok: true, capabilities: Some(Capability::list(offered, in_use)), ..Reply::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_travel_as_documented() {
        let protect = |rsh: Option<&str>| Request::Protect {
            host: "tcp:127.0.0.1:7000".into(),
            rsh: rsh.map(Into::into),
            remote: None,
        };
        for (request, line) in [
            (Request::Status, r#"{"command":"status"}"#),
            (Request::Watch { interval_ms: None }, r#"{"command":"watch"}"#),
            (Request::Watch { interval_ms: Some(10) }, r#"{"command":"watch","interval_ms":10}"#),
            (Request::SetInterval { ms: 50 }, r#"{"command":"set-interval","ms":50}"#),
            (Request::SwitchOver, r#"{"command":"switch-over"}"#),
            (protect(None), r#"{"command":"protect","host":"tcp:127.0.0.1:7000"}"#),
            (protect(Some("ssh -p 1")), r#"{"command":"protect","host":"tcp:127.0.0.1:7000","rsh":"ssh -p 1"}"#),
            (Request::Unprotect { force: true }, r#"{"command":"unprotect","force":true}"#),
            (Request::FailOver { force: false, generation: None }, r#"{"command":"fail-over","force":false}"#),
            (
                Request::FailOver { force: false, generation: Some(7) },
                r#"{"command":"fail-over","force":false,"generation":7}"#,
            ),
            (Request::Drop, r#"{"command":"drop"}"#),
            (Request::Capabilities, r#"{"command":"capabilities"}"#),
            (
                Request::SetCapability { name: "mc".into(), on: true },
                r#"{"command":"set-capability","name":"mc","on":true}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(Request::parse(line.as_bytes()).unwrap(), request);
        }
        assert_eq!(Request::parse(br#"{"command":"unprotect"}"#).unwrap(), Request::Unprotect { force: false });
        assert_eq!(
            Request::parse(br#"{"command":"fail-over"}"#).unwrap(),
            Request::FailOver { force: false, generation: None }
        );
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (line, part) in [
            (r#"{"command":"reboot"}"#, "unknown variant `reboot`"),
            (r#"{"command":"status","verbose":true}"#, "unknown field `verbose`"),
            (r#"{"command":"switch-over","now":1}"#, "unknown field `now`"),
            (r#"{"command":"capabilities","x":1}"#, "unknown field `x`"),
            (r#"{"command":"unprotect","forced":true}"#, "unknown field `forced`"),
            (r#"{"command":"watch","interval":1}"#, "unknown field `interval`"),
            (r#"{"command":"watch","interval_ms":9}"#, "9 is outside 10 to 60000"),
            (r#"{"command":"watch","interval_ms":60001}"#, "60001 is outside"),
            (r#"{"command":"set-interval"}"#, "missing field `ms`"),
            (r#"{"command":"set-capability","name":"mc"}"#, "missing field `on`"),
            (r#"{"command":"set-capability","name":"mc","on":"off"}"#, "expected a boolean"),
            (r#"{"command":"set-interval","ms":-1}"#, "-1"),
            (r#"{"ms":1}"#, "missing field `command`"),
            (r#"["status"]"#, "invalid type"),
            (r#"{"command":"status""#, "EOF"),
            ("", "EOF"),
            ("\u{ff}", "expected value"),
        ] {
            let error = Request::parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(Request::parse(b"{\"command\":\"\xff\"}").is_err());
    }

    #[test]
    fn replies_leave_out_what_they_do_not_have() {
        assert_eq!(serde_json::to_string(&Reply::done()).unwrap(), r#"{"ok":true}"#);
        assert_eq!(serde_json::to_string(&Reply::error("no")).unwrap(), r#"{"ok":false,"error":"no"}"#);
        let reply = Reply::status(Status { domain: "web".into(), ..Status::default() });
        let text = serde_json::to_string(&reply).unwrap();
        assert!(text.starts_with(r#"{"ok":true,"status":{"domain":"web","#), "{text}");
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply);
    }
}
