//! Asks the witness on a thread of its own: its answer may take any time.

use crate::remus::primary::Answer;
use crate::remus::{Generation, Level, Session, Verdict};
use crate::witness::Witness;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use std::{io, thread};

/// The way to the thread. Dropping it ends the thread after the question under way.
#[derive(Debug)]
pub(super) struct WitnessThread {
    questions: Sender<Question>,
}

enum Question {
    Take(Generation, Session),
    Knows(Generation),
}

/// What the witness says.
#[derive(Debug, Clone)]
pub(super) enum Said {
    /// To [`WitnessThread::ask`].
    Answer(Answer),
    /// To [`WitnessThread::compare`]: it does not know of what was given.
    Behind,
    /// Unasked, at the start and from time to time: the newest generation, or why no other could be acquired now.
    Looked(Result<Generation, String>),
}

/// What is wrong with the witness, as far as was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<String>);

impl Alarm {
    /// Compares what was seen with the newest generation that this side knows of; none where it cannot know yet. Gives what to tell
    /// when that has changed.
    pub(super) fn looked(
        &mut self,
        looked: Result<Generation, String>,
        known: Option<Generation>,
    ) -> Option<(Level, String)> {
        let alarm = match (looked, known) {
            (Err(error), _) => Some(format!(
                "WITNESS: {error}: as long as that lasts nobody can take over, nor go on alone, should one side be lost"
            )),
            (Ok(newest), Some(known)) if newest > known => Some(format!(
                "WITNESS: {newest} was acquired by somebody else, this side has {known}: should one side be lost, the other \
                 will not be granted the domain"
            )),
            _ => None,
        };
        if alarm == self.0 {
            return None;
        }
        self.0 = alarm;
        Some(match &self.0 {
            Some(text) => (Level::Critical, text.clone()),
            None => (Level::Info, "the witness is in order again".to_owned()),
        })
    }

    /// For the status.
    pub(super) fn text(&self) -> Option<String> {
        self.0.clone()
    }
}

/// Between two looks, in tries of a witness that is out of reach.
const LOOKS: u32 = 10;

impl WitnessThread {
    /// Starts the thread for a witness, where there is one, and says in words which it is.
    pub(super) fn start_any(
        witness: Option<Box<dyn Witness>>,
        retry: Duration,
        said: impl FnMut(Said) + Send + 'static,
    ) -> io::Result<(Option<Self>, String)> {
        let Some(witness) = witness else { return Ok((None, "none".to_owned())) };
        let described = witness.describe();
        Ok((Some(Self::start(witness, retry.saturating_mul(LOOKS), said)?), described))
    }

    /// Starts the thread; what the witness says goes to `said`.
    fn start(
        mut witness: Box<dyn Witness>,
        every: Duration,
        mut said: impl FnMut(Said) + Send + 'static,
    ) -> io::Result<Self> {
        let (questions, asked) = channel();
        thread::Builder::new().name("witness".into()).spawn(move || {
            // What it knows now is what it must not forget.
            let mut look = Instant::now();
            loop {
                let question = match asked.recv_timeout(look.saturating_duration_since(Instant::now())) {
                    Ok(question) => question,
                    Err(RecvTimeoutError::Timeout) => {
                        said(Said::Looked(witness.check().map_err(|error| error.to_string())));
                        look = Instant::now() + every;
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let (generation, session) = match question {
                    Question::Take(generation, session) => (generation, session),
                    Question::Knows(given) => {
                        match witness.knows(given) {
                            Ok(true) => {}
                            Ok(false) => said(Said::Behind),
                            Err(error) => log::warn!("{error}"),
                        }
                        continue;
                    }
                };
                let verdict = witness.take(generation, session.0);
                match verdict {
                    Verdict::Granted => log::info!("the witness gives {generation} to this side"),
                    Verdict::Held { newest } => log::info!("the witness denies {generation}: {newest} is given"),
                    Verdict::Unreachable => log::warn!("the witness cannot be asked for {generation}"),
                }
                said(Said::Answer(Answer { generation, verdict }));
            }
        })?;
        Ok(WitnessThread { questions })
    }

    /// Tells the witness what was given for certain. It says so if it does not know of it.
    pub(super) fn compare(&self, given: Generation) {
        // As below.
        let _ = self.questions.send(Question::Knows(given));
    }

    /// Asks, in or after a session. The answer comes at any time, or never.
    pub(super) fn ask(&self, generation: Generation, session: Session) {
        // The thread ends with this value, not before.
        let _ = self.questions.send(Question::Take(generation, session));
    }
}
