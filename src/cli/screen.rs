//! Where a long print goes: to a pager and in colour on a terminal, else as it is.

use clap::ValueEnum;
use signal_hook::consts::SIGINT;
use std::env;
use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    Auto,
    /// Wherever it goes
    Always,
    /// Nowhere
    Never,
}

impl Color {
    /// Whether to colour what goes to standard output.
    pub fn is_wanted(self) -> bool {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let dumb = set("TERM").is_none_or(|term| term == "dumb");
                io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb
            }
        }
    }
}

/// Standard output, or a pager in front of it.
pub enum Screen {
    /// As it is.
    Plain(BufWriter<Stdout>),
    /// What is written is shown page by page, until the operator has seen enough: then writing gives
    /// [`io::ErrorKind::BrokenPipe`].
    Paged(Paged),
}

/// A pager.
pub struct Paged {
    /// Gone when there is no more.
    to: Option<BufWriter<ChildStdin>>,
    child: Child,
}

/// The program that PAGER names, for the shell; `None` for none.
fn pager() -> Option<Command> {
    let quiet = |mut command: Command| {
        // It ends by itself where all fits the screen, shows colours, leaves the text there, and ends at an interrupt.
        if env::var_os("LESS").is_none() {
            command.env("LESS", "FRXK");
        }
        command
    };
    match env::var_os("PAGER") {
        None => Some(quiet(Command::new("less"))),
        Some(named) if named.is_empty() || named == "cat" => None,
        Some(named) => {
            let mut command = Command::new("sh");
            command.args([OsString::from("-c"), named]);
            Some(quiet(command))
        }
    }
}

impl Screen {
    /// With a pager where `paged` and standard output is a terminal and there is one.
    pub fn new(paged: bool) -> Screen {
        let plain = || Screen::Plain(BufWriter::with_capacity(1 << 16, io::stdout()));
        if !paged || !io::stdout().is_terminal() {
            return plain();
        }
        let Some(mut command) = pager() else { return plain() };
        let Ok(mut child) = command.stdin(Stdio::piped()).spawn() else { return plain() };
        // An interrupt from the keyboard is for the pager; it ends, and writing to it with it.
        let _ = signal_hook::flag::register(SIGINT, Arc::new(AtomicBool::new(false)));
        let to = child.stdin.take().map(|to| BufWriter::with_capacity(1 << 16, to));
        Screen::Paged(Paged { to, child })
    }

    /// Writes what is left, and waits until the pager has shown it.
    ///
    /// # Errors
    /// The writer's; none where the operator has seen enough.
    pub fn close(mut self) -> io::Result<()> {
        match self.flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && matches!(self, Screen::Paged(_)) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Paged {
    fn drop(&mut self) {
        drop(self.to.take());
        // It ends when the operator says so.
        let _ = self.child.wait();
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Screen::Plain(out) => out.write(bytes),
            Screen::Paged(Paged { to: Some(to), .. }) => to.write(bytes),
            Screen::Paged(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Screen::Plain(out) => out.flush(),
            Screen::Paged(paged) => paged.to.as_mut().map_or(Ok(()), Write::flush),
        }
    }
}
