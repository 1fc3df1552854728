//! A status as a table for people, once or live.

use crate::control::status::{Framing, Guest, Loudness, Output, Role, Status, Summary};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Stdout, Write};

/// Columns of a table where nobody says how many there are.
pub const WIDTH: usize = 100;
/// Most notices shown: with them a table is no taller than a terminal.
const NOTICES: usize = 5;
/// Clears from the cursor to the end of the screen.
const CLEAR: &str = "\x1b[J";
/// Lines that are too long for the terminal are cut there, not wrapped, so that the cursor finds back.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// The status as lines of at most `width` characters, each with its end. Rates are averages since the process began.
pub fn render(status: &Status, width: usize) -> String {
    render_since(status, &Status::default(), width)
}

/// The same, with the rates since an earlier status.
pub fn render_since(status: &Status, earlier: &Status, width: usize) -> String {
    let text = lines(status, earlier, width);
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        // A notice may quote what a peer has sent: nothing of it is to reach the terminal as a command.
        let clean = line.chars().map(|c| if c.is_control() { '?' } else { c });
        out.extend(clean.take(width));
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
    out
}

fn lines(status: &Status, earlier: &Status, width: usize) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_head(&mut out, status, width);
    let _ = write_figures(&mut out, status, earlier);
    for notice in status.notices.iter().rev().take(NOTICES).rev() {
        let level = match notice.level {
            Loudness::Info => "info",
            Loudness::Warning => "warning",
            Loudness::Critical => "CRITICAL",
        };
        let _ = writeln!(out, "{:>9} ago  {level:<8}  {}", span(notice.age_ms), one_line(&notice.text));
    }
    out
}

fn write_head(out: &mut String, status: &Status, width: usize) -> std::fmt::Result {
    let name = if status.domain.is_empty() { "(not known)" } else { &status.domain };
    let role = match status.role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
    };
    let guest = match status.guest {
        Guest::Running => "running",
        Guest::Suspended => "suspended",
        Guest::Stopped => "stopped",
        Guest::Absent => "absent",
    };
    let output = match status.output {
        Output::Free => "free",
        Output::Held => "held",
    };
    let protected = if status.protected { "protected" } else { "NOT PROTECTED" };
    let (name, phase) = (one_line(name), one_line(&status.phase));
    let simulated = if status.simulated { "SIMULATED guest, " } else { "" };
    writeln!(out, "{name}: {simulated}{role}, {phase}, {protected}; guest {guest}, output {output}")?;
    let framing = match status.framing {
        None => "not connected",
        Some(Framing::Framed) => "framed",
        Some(Framing::Bare) => "BARE: no acknowledgements",
    };
    let session = if status.session.is_empty() { "none" } else { &status.session };
    let peer = status.peer.as_deref().unwrap_or("none");
    let rest = format!(" ({framing}), session {}", one_line(session));
    writeln!(out, "{}", with_end("peer", peer, &rest, width))?;
    let fence = if status.fence { "yes" } else { "no" };
    let rule = format!("{}, witness {}", status.rule, status.witness);
    let rest = format!(", fence {fence}, generation {}", status.generation);
    writeln!(out, "{}", with_end("rule", &rule, &rest, width))?;
    if let Some(alarm) = &status.alarm {
        writeln!(out, "ALARM        {}", one_line(alarm))?;
    }
    if let Some(kept) = &status.kept {
        let (since, memory) = (span(kept.since_ms), bytes(kept.memory));
        let (checkpoint, newest) = (thousands(kept.checkpoint), kept.newest);
        writeln!(
            out,
            "KEPT         checkpoint {checkpoint}, {memory}, since {since}: denied, another has generation {newest}"
        )?;
    }
    let last = status.since_last_ms.map_or("never".into(), |ms| format!("{} ago", span(ms)));
    let (begun, acknowledged) = (thousands(status.checkpoint), thousands(status.acknowledged));
    let refused = thousands(status.statistics.refused);
    writeln!(out, "checkpoint   {begun}; acknowledged {acknowledged}, {last}; refused {refused}")?;
    let adaptive = one_line(status.adaptive.as_deref().unwrap_or("fixed"));
    let stretched = thousands(status.statistics.interval_stretched);
    writeln!(out, "interval     {} ms ({adaptive}), stretched {stretched} times", thousands(status.interval_ms))
}

/// What an operator can do about a replica that was denied, in lines that can be pasted: whole, whatever the width. Empty where there is
/// none.
pub fn decisions(status: &Status) -> String {
    let Some(kept) = &status.kept else { return String::new() };
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    format!(
        "where another host runs the domain:\n  {}\nonly if no other host runs it and none will:\n  {}\n",
        clean(&kept.drop),
        clean(&kept.fail_over)
    )
}

fn write_figures(out: &mut String, status: &Status, earlier: &Status) -> std::fmt::Result {
    let figures = &status.statistics;
    writeln!(out, "{:20}{:>14}{:>14}{:>14}", "", "p50", "p99", "max")?;
    for (name, times) in [
        ("pause", figures.pause),
        ("transmission", figures.transmission),
        ("acknowledgement", figures.acknowledgement),
        ("output delay", figures.output_delay),
    ] {
        row(out, &format!("{name} (ms)"), times, millis)?;
    }
    row(out, "pages/checkpoint", figures.pages_per_checkpoint, thousands)?;
    row(out, "bytes/checkpoint", figures.bytes_per_checkpoint, bytes)?;
    if let Some(told) = &status.lock_step {
        row(out, "latency (ms)", told.latency, millis)?;
        let [agreed, waited, differ, others] =
            [told.agreed, told.waited, told.by_difference, told.by_period].map(thousands);
        writeln!(out, "packets      {agreed} at once, {waited} with a checkpoint")?;
        writeln!(out, "checkpoints  {differ} for a difference, {others} for the period or by hand")?;
    }
    // The other way round when the earlier one was of another process.
    let (earlier, since) = match status.elapsed_ms.checked_sub(earlier.elapsed_ms) {
        Some(since) if since > 0 => (earlier.statistics, since),
        _ => (Default::default(), status.elapsed_ms),
    };
    let rate = |now: u64, then: u64| {
        let rate = u128::from(now.saturating_sub(then)) * 1000 / u128::from(since.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    };
    let tenths = rate(figures.checkpoints.saturating_mul(10), earlier.checkpoints.saturating_mul(10));
    let pages = thousands(rate(figures.pages, earlier.pages));
    let volume = bytes(rate(figures.bytes, earlier.bytes));
    let checkpoints = format!("{}.{}", thousands(tenths / 10), tenths % 10);
    writeln!(out, "rate         {checkpoints} checkpoints/s, {pages} pages/s, {volume}/s")?;
    let (checkpoints, pages) = (thousands(figures.checkpoints), thousands(figures.pages));
    let failovers = if figures.failovers > 0 { format!(", {} fail-overs", figures.failovers) } else { String::new() };
    writeln!(out, "in all       {checkpoints} checkpoints, {pages} pages, {}{failovers}", bytes(figures.bytes))
}

fn row(out: &mut String, name: &str, values: Summary, show: fn(u64) -> String) -> std::fmt::Result {
    writeln!(out, "{name:20}{:>14}{:>14}{:>14}", show(values.p50), show(values.p99), show(values.max))
}

/// Microseconds as milliseconds.
fn millis(micros: u64) -> String {
    format!("{}.{:03}", thousands(micros / 1000), micros % 1000)
}

fn thousands(value: u64) -> String {
    indicatif::HumanCount(value).to_string()
}

fn bytes(value: u64) -> String {
    indicatif::BinaryBytes(value).to_string()
}

/// Milliseconds in the unit that suits.
fn span(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// A line whose end is worth more than all of a long command or path before it: "..." stands for what there is no room for.
fn with_end(label: &str, text: &str, end: &str, width: usize) -> String {
    let start = format!("{label:<13}{}", one_line(text));
    let room = width.saturating_sub(end.chars().count());
    if start.chars().count() <= room {
        return start + end;
    }
    let kept: String = start.chars().take(room.saturating_sub(3)).collect();
    format!("{kept}...{end}")
}

/// A table that follows a status: in place on a terminal, else one table below the other.
#[derive(Debug)]
pub struct Live<W> {
    out: W,
    terminal: bool,
    /// Lines of the table on the screen.
    shown: usize,
    earlier: Option<Status>,
}

impl Live<Stdout> {
    /// On standard output.
    pub fn stdout() -> Self {
        Live::new(io::stdout(), io::stdout().is_terminal())
    }
}

impl<W: Write> Live<W> {
    /// On anything that is a terminal or not.
    pub fn new(out: W, terminal: bool) -> Self {
        Live { out, terminal, shown: 0, earlier: None }
    }

    /// What it writes to.
    pub(super) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Shows a newer status. Its rates are those since the one before.
    ///
    /// # Errors
    /// Those of writing; [`io::ErrorKind::BrokenPipe`] when nobody reads any more.
    pub fn show(&mut self, status: &Status) -> io::Result<()> {
        let table = render_since(status, self.earlier.as_ref().unwrap_or(&Status::default()), WIDTH);
        let mut text = String::new();
        match (self.terminal, self.shown) {
            (true, 0) => {}
            (true, shown) => text = format!("\x1b[{shown}A\r{CLEAR}"),
            (false, 0) => {}
            (false, _) => text.push('\n'),
        }
        if self.terminal {
            text += NO_WRAP;
        }
        text += &table;
        if self.terminal {
            text += WRAP;
        }
        self.shown = table.lines().count();
        self.earlier = Some(status.clone());
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::LockStep;
    use crate::control::status::{Figures, Notice};

    fn protected() -> Status {
        let ms = |p50, p99, max| Summary { p50, p99, max };
        Status {
            domain: "web".into(),
            simulated: false,
            role: Role::Primary,
            phase: "protected".into(),
            guest: Guest::Running,
            protected: true,
            peer: Some("host-b".into()),
            framing: Some(Framing::Framed),
            rule: "witness".into(),
            generation: 7,
            session: "00c0ffee00c0ffee".into(),
            interval_ms: 50,
            output: Output::Held,
            checkpoint: 1235,
            acknowledged: 1234,
            since_last_ms: Some(31),
            elapsed_ms: 61_700,
            alarm: None,
            witness: "/srv/lease".into(),
            fence: true,
            adaptive: Some("paused=5%".into()),
            notices: vec![
                Notice { age_ms: 61_500, level: Loudness::Info, text: "protected".into() },
                Notice { age_ms: 2_040, level: Loudness::Critical, text: "refused:\n\x1b[2Jchecksum".into() },
            ],
            kept: None,
            lock_step: None,
            statistics: Figures {
                checkpoints: 1234,
                refused: 1,
                pages: 1_234_000,
                bytes: 5 << 30,
                failovers: 0,
                interval_stretched: 3,
                pause: ms(1_203, 3_400, 10_001),
                transmission: ms(12_000, 20_500, 1_234_567),
                acknowledgement: ms(310, 999, 1_000),
                output_delay: ms(60_000, 70_000, 80_000),
                pages_per_checkpoint: ms(1_000, 1_100, 262_144),
                bytes_per_checkpoint: ms(4 << 20, 5 << 20, 1 << 30),
            },
        }
    }

    #[test]
    fn everything_has_its_place() {
        let expected = "\
web: primary, protected, protected; guest running, output held
peer         host-b (framed), session 00c0ffee00c0ffee
rule         witness, witness /srv/lease, fence yes, generation 7
checkpoint   1,235; acknowledged 1,234, 31 ms ago; refused 1
interval     50 ms (paused=5%), stretched 3 times
                               p50           p99           max
pause (ms)                   1.203         3.400        10.001
transmission (ms)           12.000        20.500     1,234.567
acknowledgement (ms)         0.310         0.999         1.000
output delay (ms)           60.000        70.000        80.000
pages/checkpoint             1,000         1,100       262,144
bytes/checkpoint          4.00 MiB      5.00 MiB      1.00 GiB
rate         20.0 checkpoints/s, 20,000 pages/s, 82.98 MiB/s
in all       1,234 checkpoints, 1,234,000 pages, 5.00 GiB
    1 min ago  info      protected
    2.0 s ago  CRITICAL  refused: ?[2Jchecksum
";
        assert_eq!(render(&protected(), WIDTH), expected);
    }

    #[test]
    fn a_long_peer_or_witness_leaves_room_for_what_is_behind_it() {
        let (peer, witness) = (Some("exec:ssh host-b ".repeat(9)), "directory /srv/".repeat(9));
        let table = render(&Status { peer, witness, ..protected() }, WIDTH);
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[1].starts_with("peer         exec:ssh host-b exec:ssh"), "{table}");
        assert!(lines[1].ends_with("... (framed), session 00c0ffee00c0ffee"), "{table}");
        assert!(lines[2].starts_with("rule         witness, witness directory /srv/"), "{table}");
        assert!(lines[2].ends_with("..., fence yes, generation 7"), "{table}");
        assert!(lines[1..3].iter().all(|line| line.chars().count() == WIDTH), "{table}");
    }

    #[test]
    fn a_colo_primary_has_lines_of_its_own() {
        let latency = Summary { p50: 1_500, p99: 2_000, max: 3_000 };
        let told =
            LockStep { agreed: 1_000, waited: 20, by_difference: 3, by_period: 1, latency, ..LockStep::default() };
        let table = render(&Status { lock_step: Some(told), ..protected() }, WIDTH);
        for line in [
            "latency (ms)                 1.500         2.000         3.000\n",
            "packets      1,000 at once, 20 with a checkpoint\n",
            "checkpoints  3 for a difference, 1 for the period or by hand\n",
        ] {
            assert!(table.contains(line), "{table}");
        }
    }

    #[test]
    fn a_side_without_a_peer_is_loud_about_it() {
        let status = Status { phase: "alone".into(), guest: Guest::Running, ..Status::default() };
        let table = render(&status, WIDTH);
        assert!(
            table.starts_with("(not known): primary, alone, NOT PROTECTED; guest running, output free\n"),
            "{table}"
        );
        assert!(table.contains("none (not connected), session none"), "{table}");
        assert!(table.contains("acknowledged 0, never"), "{table}");
        let status = Status { framing: Some(Framing::Bare), ..Status::default() };
        assert!(render(&status, WIDTH).contains("(BARE: no acknowledgements)"));
    }

    #[test]
    fn no_line_is_longer_than_asked_and_the_last_notices_stay() {
        let mut status = protected();
        let notice = |n: u64| Notice { age_ms: 0, level: Loudness::Info, text: format!("é{n} ").repeat(90) };
        status.notices = (0..16).map(notice).collect();
        let table = render(&status, 40);
        assert!(table.lines().all(|line| line.chars().count() <= 40), "{table}");
        assert_eq!(table.lines().count(), 14 + NOTICES);
        assert!(table.contains("é11 ") && table.contains("é15 ") && !table.contains("é10 "), "{table}");
    }

    #[test]
    fn rates_are_those_since_the_status_before() {
        let before = protected();
        let mut now = before.clone();
        now.elapsed_ms += 2_000;
        now.statistics.checkpoints += 41;
        now.statistics.pages += 2_000;
        now.statistics.bytes += 6 << 20;
        let rate = |table: String| table.lines().find(|l| l.starts_with("rate")).unwrap().to_owned();
        let wanted = "rate         20.5 checkpoints/s, 1,000 pages/s, 3.00 MiB/s";
        assert_eq!(rate(render_since(&now, &before, WIDTH)), wanted);
        // A process that began anew, and one that has just begun.
        assert_eq!(rate(render_since(&before, &now, WIDTH)), rate(render(&before, WIDTH)));
        let fresh = "rate         0.0 checkpoints/s, 0 pages/s, 0 B/s";
        assert_eq!(rate(render(&Status::default(), WIDTH)), fresh);
    }

    #[test]
    fn a_terminal_is_redrawn_and_a_file_is_not() {
        let status = protected();
        let table = render(&status, WIDTH);
        let mut file = Vec::new();
        let mut live = Live::new(&mut file, false);
        live.show(&status).unwrap();
        live.show(&status).unwrap();
        let text = String::from_utf8(file).unwrap();
        assert!(text.starts_with(&format!("{table}\nweb: primary")) && !text.contains('\x1b'), "{text}");
        let mut screen = Vec::new();
        let mut live = Live::new(&mut screen, true);
        live.show(&status).unwrap();
        live.show(&status).unwrap();
        let text = String::from_utf8(screen).unwrap();
        assert!(text.starts_with(&format!("{NO_WRAP}{table}{WRAP}\x1b[16A\r{CLEAR}{NO_WRAP}web")), "{text:?}");
        assert_eq!(table.lines().count(), 16);
    }
}
