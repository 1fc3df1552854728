//! Looks out for the next connection while one has not said who it is: a client that is idle or slow must not keep a primary from
//! connecting.
#![forbid(unsafe_code)]

use super::operator::Desk;
use crate::control::Request;
use crate::transport::{Cancel, Listener};
use std::time::Duration;

/// Until `over` is cancelled, or the connection that is being served has greeted: ends it when another one waits and `grace` is over as
/// well. Gives whether it has.
pub fn look_out(listener: &Listener, desk: &Desk, grace: Duration, over: &Cancel) -> bool {
    // Whatever the system says, the deadline of the greeting stands.
    while listener.wait(over).unwrap_or(false) {
        match over.wait_for(grace) {
            Ok(false) => {}
            Ok(true) | Err(_) => return false,
        }
        if !has_greeted(desk) {
            log::warn!("the connection has not said who it is, and another one waits: it is ended");
            desk.unmet();
            return true;
        }
        if has_session(desk) {
            return false;
        }
    }
    false
}

fn phase(desk: &Desk) -> Option<String> {
    desk.request(Request::Status).status.map(|status| status.phase)
}

fn has_greeted(desk: &Desk) -> bool {
    phase(desk).is_none_or(|phase| phase != "greeting")
}

/// It is not about to begin.
fn has_session(desk: &Desk) -> bool {
    phase(desk).is_none_or(|phase| !["greeting", "waiting", "denied"].contains(&phase.as_str()))
}
