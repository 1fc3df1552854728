//! How to reach the other side: HOST, in its forms.

use crate::transport::Address;

/// What reaches the host.
pub const SSH_COMMAND: &str = "ssh";

/// How a HOST is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach<'a> {
    /// The command that reaches a host, as in xl's `-s`: a piece of shell. Empty: HOST itself is the command.
    pub ssh: &'a str,
    /// What is run on a host: a piece of shell, too.
    pub remote: &'a str,
    /// Whether `-e` is added to it.
    pub foreground: bool,
    /// Whether TCP may leave this machine.
    pub private: bool,
}

/// HOST: an address ([`Address::parse`]), or a host's name.
///
/// # Errors
/// What is wrong with it, for the operator.
pub fn host(host: &str, reach: &Reach<'_>) -> Result<Address, String> {
    if reach.ssh.is_empty() {
        // As in xl, whatever it begins with.
        return command(host);
    }
    if Address::is_address(host) {
        return Address::parse(host, reach.private).map_err(|error| error.to_string());
    }
    // A host's name that is none is an option of ssh's at best.
    if host.is_empty() || host.starts_with('-') || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{host:?} is not a host's name"));
    }
    let foreground = if reach.foreground { " -e" } else { "" };
    Ok(Address::Command(format!("exec {} {} {}{foreground}", reach.ssh, quoted(host), reach.remote)))
}

/// `unix:PATH` or `tcp:ADDR:PORT`, to listen at.
///
/// # Errors
/// What is wrong with it, for the operator.
pub fn listen(text: &str, private: bool) -> Result<Address, String> {
    match Address::parse(text, private).map_err(|error| error.to_string())? {
        address @ (Address::Unix(_) | Address::Tcp(_)) => Ok(address),
        _ => Err(format!("{text:?} is neither unix:PATH nor tcp:ADDR:PORT")),
    }
}

fn command(text: &str) -> Result<Address, String> {
    if text.trim().is_empty() || text.contains('\0') {
        return Err(format!("{text:?} is not a command"));
    }
    Ok(Address::Command(text.into()))
}

/// For the shell, as one word.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:@%+,/=[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REACH: Reach<'static> =
        Reach { ssh: SSH_COMMAND, remote: "xen-replicate receive", foreground: false, private: false };

    fn parse(text: &str) -> Result<Address, String> {
        host(text, &REACH)
    }

    #[test]
    fn each_form_is_recognised() {
        assert_eq!(parse("unix:/run/x"), Ok(Address::Unix("/run/x".into())));
        assert_eq!(parse("tcp:127.0.0.1:7000"), Ok(Address::Tcp(([127, 0, 0, 1], 7000).into())));
        assert!(matches!(parse("tcp:[::1]:7000"), Ok(Address::Tcp(a)) if a.is_ipv6()));
        assert_eq!(parse("fd:3,4"), Ok(Address::Fds { read: 3, write: 4 }));
        assert_eq!(parse("exec:nc x 1"), Ok(Address::Command("nc x 1".into())));
        assert_eq!(parse("root@b"), Ok(Address::Command("exec ssh root@b xen-replicate receive".into())));
    }

    #[test]
    fn a_host_is_reached_as_xl_does() {
        let reach = Reach { ssh: "ssh -p 22", remote: "xl migrate-receive -r", foreground: true, private: false };
        let expected = "exec ssh -p 22 b xl migrate-receive -r -e";
        assert_eq!(host("b", &reach), Ok(Address::Command(expected.into())));
        let itself = Reach { ssh: "", ..reach };
        for text in ["nc b 7000", "tcp:127.0.0.1:1", "unix:/x"] {
            assert_eq!(host(text, &itself), Ok(Address::Command(text.into())));
        }
        let expected = r"exec ssh 'a'\''$b' xen-replicate receive";
        assert_eq!(parse("a'$b"), Ok(Address::Command(expected.into())));
    }

    #[test]
    fn what_is_none_of_them_is_refused() {
        for bad in [
            "",
            "-oProxyCommand=x",
            "a b",
            "a\nb",
            "unix:",
            "tcp:",
            "tcp:b:1",
            "tcp:127.0.0.1",
            "tcp:127.0.0.1:70000",
            "fd:",
            "fd:3",
            "fd:-1,3",
            "fd:3,4,5",
            "fd:a,b",
            "exec:",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(host("", &Reach { ssh: "", ..REACH }).is_err());
        assert!(listen("fd:3,4", false).is_err());
        assert!(listen("b", false).is_err());
    }

    #[test]
    fn tcp_stays_on_this_machine() {
        for (text, here, private) in [
            ("127.9.9.9:1", true, true),
            ("10.0.0.1:1", false, true),
            ("[fd00::1]:1", false, true),
            ("0.0.0.0:1", false, false),
            ("[::]:1", false, false),
            ("8.8.8.8:1", false, false),
            ("198.20.0.1:1", false, false),
        ] {
            assert_eq!(parse(&format!("tcp:{text}")).is_ok(), here, "{text}");
            let reach = Reach { private: true, ..REACH };
            assert_eq!(host(&format!("tcp:{text}"), &reach).is_ok(), private, "{text}");
            assert_eq!(listen(&format!("tcp:{text}"), true).is_ok(), private, "{text}");
        }
        let error = parse("tcp:10.0.0.1:1").unwrap_err();
        assert!(error.contains("10.0.0.1:1"), "{error}");
    }
}
