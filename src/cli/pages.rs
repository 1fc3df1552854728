//! Completion and man pages, made of the table of options that `--help` is made of.

use crate::save_helper::usage as helper;
use clap::{Args as ClapArgs, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Options of `completion`.
#[derive(Debug, ClapArgs)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Options of `man`.
#[derive(Debug, ClapArgs)]
pub struct ManArgs {
    /// The folder for them, which is made when it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints the completion of `program` for a shell.
///
/// # Errors
/// Those of writing.
pub fn completion(args: &CompletionArgs, program: &Command) -> io::Result<bool> {
    io::stdout().lock().write_all(&script(args.shell, program)).map(|()| true)
}

/// In memory, for it panics where it cannot write.
fn script(shell: Shell, program: &Command) -> Vec<u8> {
    let mut script = Vec::new();
    let mut command = shown(program);
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, &name, &mut script);
    match (shell, String::from_utf8(script)) {
        // clap_complete 4.6 looks for the options of `a-b c` under another name than that by which it has put them there.
        (Shell::Bash, Ok(text)) => {
            text.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__")).into_bytes()
        }
        (_, Ok(text)) => text.into_bytes(),
        (_, Err(bytes)) => bytes.into_bytes(),
    }
}

/// Writes the pages of `program`, of each of its subcommands, and of the save helper.
///
/// # Errors
/// The system's.
pub fn man(args: &ManArgs, program: &Command) -> io::Result<bool> {
    let folder = &args.folder;
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(named)?;
    for (command, section) in [(shown(program), "1"), (helper::command(), "8")] {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        pages(&command, section, folder).map_err(named)?;
    }
    Ok(true)
}

fn pages(command: &Command, section: &str, folder: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands() {
        pages(subcommand, section, folder)?;
    }
    Man::new(command.clone())
        .section(section)
        .source(concat!("xen-replicate ", env!("CARGO_PKG_VERSION")))
        .manual("xen-replicate")
        .generate_to(folder)
        .map(drop)
}

/// What `--help` shows of a command: completion would offer the rest as well.
fn shown(command: &Command) -> Command {
    let mut out = Command::new(command.get_name().to_owned())
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).map(shown))
        .subcommand_required(command.is_subcommand_required_set());
    if let Some(about) = command.get_about() {
        out = out.about(about.clone());
    }
    if let Some(about) = command.get_long_about() {
        out = out.long_about(about.clone());
    }
    if let Some(text) = command.get_after_help() {
        out = out.after_help(text.clone());
    }
    if let Some(version) = command.get_version() {
        out = out.version(version.to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;
    use std::collections::BTreeSet;

    /// Each command that `--help` shows, by its page's name.
    fn all(command: &Command, name: &str, out: &mut Vec<(String, Command)>) {
        for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
            all(subcommand, &format!("{name}-{}", subcommand.get_name()), out);
        }
        out.push((name.to_owned(), command.clone()));
    }

    /// A page without what troff makes of it.
    fn plain(page: &str) -> String {
        let text = ["\\fB", "\\fI", "\\fR", "\\&"].iter().fold(page.to_owned(), |text, mark| text.replace(mark, ""));
        text.replace("\\-", "-").replace("\\*(Aq", "'")
    }

    /// In one line, with single blanks.
    fn joined(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_page_has_all_that_help_shows_and_nothing_that_it_hides() {
        let folder = tempfile::tempdir().unwrap();
        man(&ManArgs { folder: folder.path().join("new/pages") }, &Cli::command()).unwrap();
        let folder = folder.path().join("new/pages");
        let mut commands = Vec::new();
        let mut program = Cli::command();
        program.build();
        all(&program, "xen-replicate", &mut commands);
        commands.retain(|(name, _)| !name.contains("-help"));
        let mut helper = helper::command();
        helper.build();
        commands.push(("xen-replicate-save-helper".into(), helper));
        let mut files: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let mut expected: Vec<_> = commands
            .iter()
            .map(|(name, _)| format!("{name}.{}", if name.ends_with("-helper") { 8 } else { 1 }))
            .collect();
        expected.sort();
        assert_eq!(files, expected);
        assert!(expected.len() > 15, "{expected:?}");

        let mut options = 0;
        for (name, command) in &commands {
            let file = expected.iter().find(|file| file.strip_suffix(".1").or(file.strip_suffix(".8")) == Some(name));
            let page = plain(&fs::read_to_string(folder.join(file.unwrap())).unwrap());
            let page = joined(&page);
            for argument in command.get_arguments() {
                let long = argument.get_long().map(|long| format!("--{long}"));
                if argument.is_hide_set() {
                    assert!(!page.contains(&long.unwrap()), "{name} has {:?}", argument.get_id());
                    continue;
                }
                options += 1;
                let short = argument.get_short().map(|short| format!("-{short}"));
                // Of `--help` itself it is another text, in the short help and in the long one.
                let help = argument.get_help().filter(|_| argument.get_id() != "help");
                let help = help.map(|help| joined(&help.to_string()));
                for part in [long, short, help].into_iter().flatten() {
                    assert!(page.contains(&part), "{name} lacks {part:?}: {page}");
                }
            }
            let about = command.get_about().map(|about| joined(&about.to_string())).unwrap();
            assert!(page.contains(&about), "{name} lacks {about:?}");
        }
        assert!(options > 150, "{options} options");
    }

    /// What bash would offer behind these words and a `-`, and behind these words alone.
    fn offered(script: &Path, words: &[&str], begun: &str) -> BTreeSet<String> {
        let ask = r#"set -u; . "$1"; begun=$2; shift 2; COMP_WORDS=("$@" "$begun") COMP_CWORD=$#
            _xen__replicate "$1" "$begun" "${COMP_WORDS[$# - 1]}"; printf '%s\n' "${COMPREPLY[@]}""#;
        let mut bash = std::process::Command::new("bash");
        let output = bash.args(["--norc", "-c", ask, "bash"]).arg(script).arg(begun).args(words).output().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn bash_offers_all_that_help_shows_and_nothing_that_it_hides() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), script(Shell::Bash, &Cli::command())).unwrap();
        let checked = std::process::Command::new("bash").arg("-n").arg(file.path()).output().unwrap();
        assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
        let mut program = Cli::command();
        program.build();
        let mut options = 0;
        let mut open = vec![(vec!["xen-replicate".to_owned()], &program)];
        while let Some((words, command)) = open.pop() {
            let words_: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut expected = BTreeSet::new();
            for argument in command.get_arguments().filter(|a| !a.is_hide_set() && !a.is_positional()) {
                let shorts = argument.get_short_and_visible_aliases().unwrap_or_default();
                expected.extend(shorts.iter().map(|short| format!("-{short}")));
                expected.extend(argument.get_long().map(|long| format!("--{long}")));
            }
            options += expected.len();
            assert_eq!(offered(file.path(), &words_, "-"), expected, "{words:?}");
            let visible = command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help");
            for subcommand in visible {
                let name = subcommand.get_name();
                assert!(offered(file.path(), &words_, name).contains(name), "{words:?} {name}");
                open.push(([&words[..], &[name.to_owned()]].concat(), subcommand));
            }
        }
        assert!(options > 150, "{options} options");
        assert!(offered(file.path(), &["xen-replicate"], "demo-").is_empty());
        let rules = offered(file.path(), &["xen-replicate", "remus", "--rule"], "");
        assert_eq!(rules.iter().map(String::as_str).collect::<Vec<_>>(), ["manual", "primary-wins", "witness"]);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = man(&ManArgs { folder: file.path().join("x") }, &Cli::command()).unwrap_err();
        assert!(error.to_string().starts_with(&file.path().display().to_string()), "{error}");
    }

    #[test]
    fn what_is_shown_is_what_help_shows() {
        let (program, shown) = (Cli::command(), shown(&Cli::command()));
        shown.clone().debug_assert();
        assert!(shown.find_subcommand("demo-primary").is_none() && program.find_subcommand("demo-primary").is_some());
        let (mut program, mut shown) = (program, shown);
        for name in ["remus", "receive", "ctl", "tap"] {
            let of = |command: &mut Command| command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
            assert_eq!(of(&mut program), of(&mut shown), "{name}");
        }
    }
}
