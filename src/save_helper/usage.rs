//! The helper's command line for people: `--help`, `--version`, and what its man page is made of.
//!
//! libxl writes it ([`super::arguments`]); nobody else has the descriptors that it names.
#![forbid(unsafe_code)]

use super::arguments::{RESTORE, SAVE};
use super::callbacks::PROGRAM;
use clap::{Arg, ArgGroup, Command};

/// The arguments behind [`SAVE`].
pub const SAVE_ARGUMENTS: [&str; 6] = ["FD", "BACK_FD", "DOMID", "FLAGS", "CBFLAGS", "STREAM_TYPE"];
/// The arguments behind [`RESTORE`].
pub const RESTORE_ARGUMENTS: [&str; 9] = [
    "FD",
    "BACK_FD",
    "DOMID",
    "STORE_EVTCHN",
    "STORE_DOMID",
    "CONSOLE_EVTCHN",
    "CONSOLE_DOMID",
    "CBFLAGS",
    "STREAM_TYPE",
];

/// The two modes as a table of options.
pub fn command() -> Command {
    let mode = |flag: &'static str| flag.trim_start_matches('-');
    Command::new(PROGRAM.to_string_lossy().into_owned())
        .version(env!("CARGO_PKG_VERSION"))
        .about("Streams a domain's memory for libxl, in the place of libxl-save-helper")
        .long_about(
            "Streams a domain's memory for libxl, in the place of libxl-save-helper. libxl starts it where the environment \
             variable LIBXL_SAVE_HELPER names it, and answers its questions on its standard input and output; it is of no use \
             to anybody else. All arguments are decimal numbers, of descriptors, domains, event channels and bits.",
        )
        .arg(
            Arg::new("save")
                .long(mode(SAVE))
                .num_args(SAVE_ARGUMENTS.len())
                .value_names(SAVE_ARGUMENTS)
                .allow_negative_numbers(true)
                .help("Write the memory of domain DOMID to FD; BACK_FD is -1 where there is no back channel"),
        )
        .arg(
            Arg::new("restore")
                .long(mode(RESTORE))
                .num_args(RESTORE_ARGUMENTS.len())
                .value_names(RESTORE_ARGUMENTS)
                .allow_negative_numbers(true)
                .help("Read the stream from FD into the empty domain DOMID"),
        )
        .group(ArgGroup::new("mode").args(["save", "restore"]).required(true))
}

/// What to print for a lone `--help` or `--version`; nothing for what libxl asks.
pub fn answer(arguments: &[String]) -> Option<String> {
    match arguments {
        [only] if only == "--help" || only == "-h" => Some(command().render_long_help().to_string()),
        [only] if only == "--version" || only == "-V" => Some(command().render_version()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::{ArgumentsError, Command as Line};
    use super::*;

    #[test]
    fn the_table_is_what_is_read() {
        command().debug_assert();
        for (mode, names) in [(SAVE, &SAVE_ARGUMENTS[..]), (RESTORE, &RESTORE_ARGUMENTS)] {
            // libxl answers everything; the stream is a plain one.
            let good = names.iter().map(|name| match *name {
                "FD" => "5",
                "BACK_FD" => "-1",
                "CBFLAGS" => "1023",
                _ => "0",
            });
            let good: Vec<_> = good.collect();
            let line = |arguments: &[&str]| Line::parse([&[mode], arguments].concat());
            line(&good).unwrap();
            let given = [&["helper", mode], &good[..]].concat();
            assert!(command().try_get_matches_from(given).is_ok());
            for (place, name) in names.iter().enumerate() {
                let mut bad = good.clone();
                bad[place] = "x";
                let error = line(&bad).unwrap_err();
                assert!(matches!(error, ArgumentsError::Number { name: found, .. } if found == *name), "{error}");
            }
        }
    }

    #[test]
    fn a_person_is_answered_and_libxl_is_not() {
        let answer = |arguments: &[&str]| answer(&arguments.iter().map(|&a| a.to_owned()).collect::<Vec<_>>());
        let help = answer(&["--help"]).unwrap();
        for part in [SAVE, RESTORE, "CONSOLE_EVTCHN", "LIBXL_SAVE_HELPER"] {
            assert!(help.contains(part), "{help}");
        }
        assert!(answer(&["-V"]).unwrap().contains(env!("CARGO_PKG_VERSION")));
        assert_eq!(answer(&[]), None);
        assert_eq!(answer(&[SAVE, "--help"]), None);
    }
}
