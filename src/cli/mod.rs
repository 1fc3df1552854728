//! The commands. Thin: options in, a room's function called, its result printed, an exit code.

mod convert;
mod ctl;
mod diff;
mod disk;
mod dump;
mod endpoint;
mod extract;
mod fence;
mod host_info;
mod image_options;
mod info;
mod live;
mod output;
mod pages;
mod panic;
mod protect;
mod protection;
mod receive;
mod remus;
mod report;
mod resume;
mod screen;
mod serve;
mod sim_client;
mod stats;
mod stream_options;
mod table;
mod tap;
mod target;
mod verify;
mod xen;

use crate::demo;
use clap::{CommandFactory, Parser, Subcommand};
use std::io;
use std::process::ExitCode;

/// Exit code for a stream that is not valid, a guest that did not survive.
const EXIT_NEGATIVE: u8 = 1;
/// Exit code for wrong usage and for input or output that failed.
const EXIT_TROUBLE: u8 = 2;

/// Exit code of a start that finds that another host holds the domain's newest generation.
const EXIT_SUPERSEDED: u8 = 3;
/// Exit code of a start that cannot know whether the domain may run here.
const EXIT_UNKNOWN: u8 = 4;

/// What a command has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// Done, valid, survived.
    Yes,
    /// The answer is no.
    No,
    /// The domain here is superseded; said already.
    Superseded,
    /// Nobody can tell whether the domain may run here; said already.
    Unknown,
}

impl From<bool> for Exit {
    fn from(yes: bool) -> Self {
        if yes { Exit::Yes } else { Exit::No }
    }
}

/// Keeps a running Xen domain alive across the death of its host, and reads the streams that Xen's toolstack speaks.
#[derive(Debug, Parser)]
#[command(name = "xen-replicate", version, about, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a stream record by record
    Dump(dump::Args),
    /// Say whether a stream is valid, and what is wrong with it
    Verify(verify::Args),
    /// Say on one screen what a file is: whose guest, of which Xen, how large, valid or not
    Info(info::Args),
    /// Count a stream's pages
    Stats(stats::Args),
    /// Make one page for a browser of a stream, or of a log of statuses
    Report(report::Args),
    /// Write an image of a stream, at any checkpoint, as a plain one
    Convert(convert::Args),
    /// Say what is different between two images
    Diff(diff::Args),
    /// Get memory, registers or records out of an image of a stream
    Extract(extract::Args),
    /// Say what this host is for a guest that comes to it: Xen, CPU policies, device model, bridges
    HostInfo(host_info::Args),
    /// Protect a running domain: send checkpoints of it to another host
    Remus(Box<remus::Args>),
    /// Receive checkpoints of a domain, and take it over when its host dies
    Receive(Box<receive::Args>),
    /// Show or change how a running domain is protected: status, switch-over, fail-over ...
    Ctl(ctl::Args),
    /// Let a domain that was left suspended go on here: only where no other host runs it
    Resume(resume::Args),
    /// Keep a guest's disk on two hosts
    Disk(disk::Args),
    /// Pass on, record, answer or replay a COLO session of QEMU's
    Tap(tap::Args),
    /// Watch a simulated guest survive the death of its host
    Demo(demo::Args),
    /// Print a shell's completion of these commands
    Completion(pages::CompletionArgs),
    /// Write the man pages
    Man(pages::ManArgs),
    #[command(hide = true)]
    DemoPrimary(demo::ChildArgs),
    #[command(hide = true)]
    DemoSecondary(demo::ChildArgs),
    #[command(hide = true)]
    SimClient(sim_client::Args),
}

/// Runs the program with the arguments of this process.
///
/// Exit codes: 0 done (valid, survived), 1 the answer is no (not valid, not survived), 2 wrong usage or failed input or
/// output; of `remus`, 3 superseded and 4 not to be known. A panic ends the process by SIGABRT.
pub fn run() -> ExitCode {
    panic::abort_on_panic();
    if let Some(help) = help_sim(std::env::args_os().skip(1)) {
        print!("{help}");
        return ExitCode::SUCCESS;
    }
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Dump(args) => dump::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::HostInfo(args) => host_info::run(&args),
        Command::Remus(args) => return end(protect::run(&args)),
        Command::Receive(args) => serve::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Resume(args) => resume::run(&args),
        Command::Disk(args) => disk::run(&args),
        Command::Tap(args) => tap::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Completion(args) => pages::completion(&args, &Cli::command()),
        Command::Man(args) => pages::man(&args, &Cli::command()),
        Command::DemoPrimary(args) => demo::primary(&args),
        Command::DemoSecondary(args) => demo::secondary(&args),
        Command::SimClient(args) => sim_client::run(&args),
    };
    end(result.map(Exit::from))
}

/// What `--help-sim` behind the name of a command prints, whatever else is typed: the options that `--help` does not show, for they are
/// the simulated guest's.
fn help_sim(typed: impl Iterator<Item = std::ffi::OsString>) -> Option<String> {
    let typed: Vec<_> = typed.collect();
    let name = typed.first()?.to_str().filter(|name| ["remus", "receive"].contains(name))?;
    if !typed.iter().any(|word| word == "--help-sim") {
        return None;
    }
    let command = Cli::command().find_subcommand(name)?.clone();
    let simulated = |argument: &clap::Arg| argument.get_help_heading() == Some(protection::SIMULATED);
    let mut shown = clap::Command::new(format!("xen-replicate {name} --backend sim"))
        .about(format!("Options of {name} that the simulated guest has, besides those of `{name} --help`"))
        .disable_help_flag(true)
        .args(
            command.get_arguments().filter(|argument| simulated(argument)).map(|argument| argument.clone().hide(false)),
        );
    Some(shown.render_help().to_string())
}

/// The exit code of what a command has come to.
fn end(result: io::Result<Exit>) -> ExitCode {
    crate::transport::end_commands();
    match result {
        Ok(Exit::Yes) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::from(EXIT_NEGATIVE),
        Ok(Exit::Superseded) => ExitCode::from(EXIT_SUPERSEDED),
        Ok(Exit::Unknown) => ExitCode::from(EXIT_UNKNOWN),
        // Whoever read our output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xen-replicate: {error}");
            ExitCode::from(EXIT_TROUBLE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cli, CommandFactory};

    #[test]
    fn the_simulated_guests_options_have_a_help_of_their_own() {
        let helped = |typed: &[&str]| super::help_sim(typed.iter().map(Into::into));
        let of_both: [(&str, &[&str]); 2] = [
            ("remus", &["--sim <", "--sim-steps", "--nic", "--nic-peer"]),
            ("receive", &["--domain-memory", "--sim-steps", "--nic", "--nic-peer"]),
        ];
        for (name, options) in of_both {
            let special = helped(&[name, "web", "--help-sim"]).unwrap();
            let usual = Cli::command().find_subcommand_mut(name).unwrap().render_long_help().to_string();
            for option in options {
                assert!(special.contains(option) && !usual.contains(option), "{option}: {special}");
            }
            assert!(usual.contains("--help-sim") && !special.contains("--witness"));
        }
        assert_eq!((helped(&["remus", "--help"]), helped(&["ctl", "--help-sim"])), (None, None));
    }

    /// Help of a command and of those below it.
    fn helps(command: &mut clap::Command, name: &str, out: &mut Vec<(String, String)>) {
        out.push((name.to_owned(), command.render_long_help().to_string()));
        out.push((format!("{name} -h"), command.render_help().to_string()));
        for subcommand in command.get_subcommands_mut() {
            let name = format!("{name} {}", subcommand.get_name());
            helps(subcommand, &name, out);
        }
    }

    #[test]
    fn help_fits_80_columns_and_has_examples() {
        // Whatever the terminal's width is.
        let mut program = Cli::command().term_width(80);
        program.build();
        let mut all = Vec::new();
        helps(&mut program, "xen-replicate", &mut all);
        assert!(all.len() > 60, "{}", all.len());
        for (name, help) in &all {
            // Nobody breaks the line of usage, nor a word.
            let mut lines = help.lines().filter(|line| !line.starts_with("Usage: "));
            let long = lines.find(|line| line.chars().count() > 80 && line.split_whitespace().count() > 1);
            assert_eq!(long, None, "{name}");
        }
        for name in ["dump", "verify", "info", "stats", "report"] {
            let command = format!("xen-replicate {name} ");
            let help = &all.iter().find(|(of, _)| *of == command.trim_end()).unwrap().1;
            let examples: Vec<_> =
                help.lines().filter_map(|line| line.strip_prefix("  ")?.strip_prefix(&command)).collect();
            assert!(examples.len() >= 2, "{help}");
            // The files of the project's that they name are there.
            let files =
                examples.iter().flat_map(|line| line.split_whitespace()).filter(|word| word.starts_with("fixtures/"));
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            assert_eq!(files.clone().find(|file| !root.join(file).exists()), None);
            assert!(files.count() > 0, "{help}");
        }
    }

    #[test]
    fn the_options_of_all_commands_are_sound() {
        Cli::command().debug_assert();
    }
}
