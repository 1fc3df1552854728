//! Asks the witness on a thread of its own: its answer may take any time.

use crate::remus::primary::Answer;
use crate::remus::{Generation, Verdict};
use crate::witness::Witness;
use std::sync::mpsc::{Sender, channel};
use std::{io, thread};

/// The way to the thread. Dropping it ends the thread after the question under way.
#[derive(Debug)]
pub(super) struct WitnessThread {
    questions: Sender<Generation>,
}

impl WitnessThread {
    /// Starts the thread; each question's answer goes to `answered`.
    pub(super) fn start(
        mut witness: Box<dyn Witness>,
        mut answered: impl FnMut(Answer) + Send + 'static,
    ) -> io::Result<Self> {
        let (questions, asked) = channel();
        thread::Builder::new().name("witness".into()).spawn(move || {
            // What it knows now is what it must not forget.
            match witness.newest() {
                Ok(newest) => log::debug!("the witness, {}, has given {newest}", witness.describe()),
                Err(error) => log::warn!("{error}"),
            }
            for generation in asked {
                let verdict = witness.take(generation);
                match verdict {
                    Verdict::Granted => log::info!("the witness gives {generation} to this side"),
                    Verdict::Held { newest } => log::info!("the witness denies {generation}: {newest} is given"),
                    Verdict::Unreachable => log::warn!("the witness cannot be asked for {generation}"),
                }
                answered(Answer { generation, verdict });
            }
        })?;
        Ok(WitnessThread { questions })
    }

    /// Asks. The answer comes at any time, or never.
    pub(super) fn ask(&self, generation: Generation) {
        // The thread ends with this value, not before.
        let _ = self.questions.send(generation);
    }
}
