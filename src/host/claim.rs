//! The start of a primary on this host: asks the witness whether the domain that is found here may run here, and says what was found.

use super::Protection;
use super::operator::Desk;
use crate::claim::{Action, Decision, Event, Facts, InCharge, Named, Newest, Record, Start, Unknown};
use crate::remus::{Generation, Rule};
use crate::witness::{Witness, WitnessError};
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// How often a start that waits for its witness looks whether it is told to end.
const TOLD: Duration = Duration::from_millis(100);

/// The domain as it is found here, and what the operator has typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its UUID.
    pub uuid: String,
    /// An earlier process has left a buffer that holds, or may hold, its output.
    pub output_left: bool,
    /// `--force-generation`.
    pub force: Option<Generation>,
    /// What becomes of it when it may not run here, as the end of a sentence.
    pub stays: String,
    /// The command that leaves it to whoever else runs it.
    pub give_up: String,
    /// The command that was typed, with what is put in for `--force-generation` in two halves around the number.
    pub again: (String, String),
}

/// What a start has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// The domain may run here, by the newest generation that it holds; 0 for none.
    Runs(Generation),
    /// Another host, or another process, holds the newest generation. Why in words, and what an operator may do.
    Superseded(String),
    /// That cannot be known. Why in words, and what an operator may do.
    Unknown(String),
}

/// Decides whether a domain may run here. Acquires what must be before its output may leave.
///
/// # Errors
/// The witness is of no use at all; a thread cannot be started; told to end.
pub fn start(protection: &Protection, found: &Found, desk: &Desk) -> io::Result<Started> {
    let witnessed = protection.config.rule == Rule::Witness;
    let facts = Facts {
        host: protection.holder.host().clone(),
        uuid: found.uuid.clone(),
        output_left: found.output_left,
        witness: witnessed,
        force: found.force,
    };
    let witness = protection.witness().map_err(io::Error::other)?;
    let (told, decided) = channel();
    // The witness may take any time, and an operator is not to wait for it.
    thread::Builder::new().name("start".into()).spawn(move || {
        // Who started this may have been told to end.
        let _ = told.send(decide(facts, witness));
    })?;
    let (decision, trouble) = loop {
        match decided.recv_timeout(TOLD) {
            Ok(decision) => break decision,
            Err(RecvTimeoutError::Timeout) if desk.is_terminated() => {
                let text =
                    format!("{}: told to end while the witness was asked; nothing was released", protection.domain);
                return Err(io::Error::new(io::ErrorKind::Interrupted, text));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the start's thread has ended")),
        }
    };
    let domain = &protection.domain;
    Ok(match decision {
        Decision::Runs { generation, before } => {
            // Without a witness there is nothing that could have been found in it.
            if witnessed {
                log::info!("{domain}: {}", runs(generation, before.as_ref(), found));
            }
            Started::Runs(generation)
        }
        Decision::Superseded { generation, record, who } => {
            Started::Superseded(format!("{domain}: {}", superseded(domain, generation, &record, who, found)))
        }
        Decision::Unknown { newest, why } => {
            Started::Unknown(format!("{domain}: {}", unknown(domain, newest.as_ref(), why, trouble.as_ref(), found)))
        }
    })
}

fn decide(facts: Facts, mut witness: Option<Box<dyn Witness>>) -> (Decision, Option<WitnessError>) {
    let (mut start, mut action) = Start::new(facts);
    let mut trouble = None;
    loop {
        let event = match (action, &mut witness) {
            (Action::Decided(decision), _) => return (decision, trouble),
            (Action::Look, Some(witness)) => match witness.holder() {
                Ok(newest) => Event::Newest(newest),
                Err(error) => {
                    trouble = Some(error);
                    Event::Unreachable
                }
            },
            (Action::Acquire { generation }, Some(witness)) => Event::Answer(witness.take(generation, 0)),
            (_, None) => Event::Unreachable,
        };
        action = start.handle(event);
    }
}

fn runs(generation: Generation, before: Option<&Newest>, found: &Found) -> String {
    let Some(before) = before else { return "the witness has given no generation: nobody has protected it".into() };
    let had = match &before.named {
        Named::Holder { record, .. } if found.force.is_none() => {
            format!("{} was acquired for this domain on this host on {}", before.generation, record.taken_text())
        }
        Named::Holder { record, .. } => {
            let (host, taken) = (record.host_name(), record.taken_text());
            format!("forced: {} was acquired on host {host} on {taken}", before.generation)
        }
        Named::Malformed => format!("forced: the record of {} cannot be read", before.generation),
    };
    let output = if found.output_left { ", and what is held of its output leaves" } else { "" };
    format!("{had}, and nobody has acquired the next: {generation} is acquired for its start{output}")
}

fn holder(generation: Generation, record: &Record) -> String {
    let session = record.session.as_ref().map(|session| format!(", session {session}")).unwrap_or_default();
    let uuid = record.uuid.as_ref().map(|uuid| format!(", UUID {uuid}")).unwrap_or_default();
    let (host, taken) = (record.host_name(), record.taken_text());
    format!("{generation} was acquired on host {host} on {taken}{session}{uuid}")
}

fn forced(found: &Found, generation: Generation) -> String {
    format!("{}{}{}", found.again.0, generation.0, found.again.1)
}

fn wrong_number(found: &Found, generation: Generation) -> String {
    match found.force {
        Some(typed) if typed != generation => {
            format!("\n  --force-generation {} is not the newest's number, {}", typed.0, generation.0)
        }
        _ => String::new(),
    }
}

fn superseded(domain: &str, generation: Generation, record: &Record, who: InCharge, found: &Found) -> String {
    let held = holder(generation, record);
    let stays = &found.stays;
    match who {
        InCharge::OtherHost => format!(
            "SUPERSEDED: {held}, which runs the domain or may do so at any moment. Nothing is released: {stays}\n  \
             to leave it to host {host}: {give_up}\n  \
             only if host {host} does not run it and never will: {force}{wrong}",
            host = record.host_name(),
            give_up = found.give_up,
            force = forced(found, generation),
            wrong = wrong_number(found, generation),
        ),
        InCharge::OtherProcess => format!(
            "SUPERSEDED: {held}, by process {pid} of this host, which is in charge of the domain. Nothing is released: {stays}\n  \
             to see what it does: xen-replicate ctl {domain} status\n  \
             to have it protect the domain: xen-replicate ctl {domain} protect HOST",
            pid = record.process.as_ref().map_or(0, |process| process.pid),
        ),
    }
}

fn unknown(
    domain: &str,
    newest: Option<&Newest>,
    why: Unknown,
    trouble: Option<&WitnessError>,
    found: &Found,
) -> String {
    let held = match newest {
        Some(Newest { generation, named: Named::Holder { record, .. } }) => holder(*generation, record),
        Some(Newest { generation, named: Named::Malformed }) => format!("the record of {generation} cannot be read"),
        None => "the witness has given no generation".into(),
    };
    let because = match why {
        Unknown::Unreachable => {
            trouble.map_or_else(|| format!("{held}; the next cannot be acquired"), ToString::to_string)
        }
        Unknown::Malformed | Unknown::Denied => held,
        Unknown::OnlyNamed => format!("{held}, by an earlier version, which put down no more than a host's name"),
        Unknown::SameIdentity => {
            format!("{held}, which has this host's identity: a cloned machine-id, or this host was renamed")
        }
        Unknown::NoIdentity => format!("{held}, and this host or that one has no /etc/machine-id to compare"),
        Unknown::OtherDomain => format!("{held}: not by the domain that is here now, whose UUID is {}", found.uuid),
        Unknown::Held => "its output is held since an earlier `remus` was killed, and no witness knows of that".into(),
        Unknown::NothingToForce => format!("{held} that --force-generation could override"),
    };
    let mut text =
        format!("it CANNOT BE KNOWN whether the domain may run here: {because}. Nothing is released: {}", found.stays);
    match (newest, why) {
        (Some(newest), _) if why != Unknown::Unreachable => {
            let (force, wrong) = (forced(found, newest.generation), wrong_number(found, newest.generation));
            let give_up = &found.give_up;
            text +=
                &format!("\n  where another host runs it: {give_up}\n  only if no other host runs it: {force}{wrong}");
        }
        (_, Unknown::Held) => {
            let give_up = &found.give_up;
            text += &format!(
                "\n  where another host runs it: {give_up}\n  only if no other host runs it: xen-replicate resume --free-output {domain}"
            );
        }
        (_, Unknown::Unreachable) => text += "\n  make the witness reachable and writable, and start again",
        _ => {}
    }
    text
}
