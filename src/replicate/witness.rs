//! Asks the witness on a thread of its own: its answer may take any time.

use crate::remus::primary::Answer;
use crate::remus::{Generation, Session, Verdict};
use crate::witness::Witness;
use std::sync::mpsc::{Sender, channel};
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
#[derive(Debug, Clone, Copy)]
pub(super) enum Said {
    /// To [`WitnessThread::ask`].
    Answer(Answer),
    /// To [`WitnessThread::compare`]: it does not know of what was given.
    Behind,
}

impl WitnessThread {
    /// Starts the thread for a witness, where there is one, and says in words which it is.
    pub(super) fn start_any(
        witness: Option<Box<dyn Witness>>,
        said: impl FnMut(Said) + Send + 'static,
    ) -> io::Result<(Option<Self>, String)> {
        let Some(witness) = witness else { return Ok((None, "none".to_owned())) };
        let described = witness.describe();
        Ok((Some(Self::start(witness, said)?), described))
    }

    /// Starts the thread; what the witness says goes to `said`.
    fn start(mut witness: Box<dyn Witness>, mut said: impl FnMut(Said) + Send + 'static) -> io::Result<Self> {
        let (questions, asked) = channel();
        thread::Builder::new().name("witness".into()).spawn(move || {
            // What it knows now is what it must not forget.
            match witness.newest() {
                Ok(newest) => log::debug!("the witness, {}, has given {newest}", witness.describe()),
                Err(error) => log::warn!("{error}"),
            }
            for question in asked {
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
