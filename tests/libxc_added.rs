//! A guest whose memory map changes while it is protected: a balloon, a device's memory that moves. At every moment of a round, under a
//! hypervisor whose dirty log tells of what comes to the guest (as Xen 4.20.4's) and under one whose log does not (as 4.17's).

mod replicate_support;

use proptest::prelude::*;
use replicate_support::guest;
use std::cell::{Cell, RefCell};
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::hypervisor::types::{
    CleanMode, CpuPolicy, DirtyStats, DomainInfo, Page, PageType, Pfn, RunState, TscInfo,
};
use xen_replicate::hypervisor::{DirtyBitmap, Domain, Error, LogDirty, PageBatch, PvDomain, Result, SaveDomain};
use xen_replicate::libxc::restore::{Ending, Options};
use xen_replicate::libxc::{Restorer, Round, Saver};
use xen_replicate::stream::Mode;
use xen_replicate::stream::framer::Options as Framing;
use xen_replicate::stream::handover::{Alone, LibxcReader, LibxcWriter};

/// What the guest does to its memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Clears a page, as Linux' balloon does, and gives it back.
    ClearAndGive(Pfn),
    /// Gives a page back as it is.
    Give(Pfn),
    /// Takes a page.
    Take(Pfn),
    /// Writes to a page.
    Fill(Pfn, u8),
    /// A page goes from one pfn to another.
    Move(Pfn, Pfn),
}

/// A guest that acts by its saver's calls: each call is a moment.
struct Acting {
    guest: RefCell<SimDomain>,
    /// What it does when, in the order of the moments.
    acts: RefCell<Vec<(u32, Act)>>,
    moment: Cell<u32>,
    /// Whether the saver is told that the log is enough, whatever it is.
    trusted: bool,
    /// Pfns whose types were asked for while the guest stood still, as many as there were.
    looked_up: Cell<usize>,
    /// What was not there to be done.
    refused: Cell<u32>,
}

impl Acting {
    fn new(guest: SimDomain, acts: &[(u32, Act)], trusted: bool) -> Self {
        let mut acts = acts.to_vec();
        acts.sort_by_key(|(moment, _)| *moment);
        let (moment, looked_up, refused) = (Cell::new(0), Cell::new(0), Cell::new(0));
        Acting { guest: RefCell::new(guest), acts: RefCell::new(acts), moment, trusted, looked_up, refused }
    }

    /// One more moment has come. What a guest would do while it is suspended it does when it runs again.
    fn moment(&self) {
        self.moment.set(self.moment.get() + 1);
        let mut guest = self.guest.borrow_mut();
        if !guest.is_running() {
            return;
        }
        let mut acts = self.acts.borrow_mut();
        while acts.first().is_some_and(|&(moment, _)| moment <= self.moment.get()) {
            let done = match acts.remove(0).1 {
                Act::ClearAndGive(pfn) => guest.fill(pfn, 0).and_then(|()| guest.give_back(&[pfn])),
                Act::Give(pfn) => guest.give_back(&[pfn]),
                Act::Take(pfn) => guest.take(&[pfn]),
                Act::Fill(pfn, byte) => guest.fill(pfn, byte),
                Act::Move(from, to) => guest.move_page(from, to),
            };
            match done {
                Ok(()) => {}
                Err(Error::NotPopulated { .. } | Error::OutOfMemory { .. }) => self.refused.set(self.refused.get() + 1),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Domain for Acting {
    fn info(&self) -> Result<DomainInfo> {
        self.moment();
        self.guest.borrow().info()
    }

    fn suspend(&mut self) -> Result<()> {
        self.moment();
        self.guest.get_mut().suspend()
    }

    fn resume(&mut self) -> Result<()> {
        self.guest.get_mut().resume()?;
        self.moment();
        Ok(())
    }

    fn pause(&mut self) -> Result<()> {
        unreachable!("nobody pauses it")
    }

    fn unpause(&mut self) -> Result<()> {
        unreachable!("nobody pauses it")
    }
}

impl LogDirty for Acting {
    fn logs_additions(&self) -> bool {
        self.trusted || self.guest.borrow().logs_additions()
    }

    fn enable_log_dirty(&mut self) -> Result<()> {
        self.moment();
        self.guest.get_mut().enable_log_dirty()?;
        self.moment();
        Ok(())
    }

    fn clean_log_dirty(&mut self, bitmap: &mut DirtyBitmap, mode: CleanMode) -> Result<DirtyStats> {
        self.moment();
        let stats = self.guest.get_mut().clean_log_dirty(bitmap, mode)?;
        self.moment();
        Ok(stats)
    }

    fn peek_log_dirty(&mut self, bitmap: &mut DirtyBitmap) -> Result<DirtyStats> {
        self.moment();
        self.guest.get_mut().peek_log_dirty(bitmap)
    }

    fn disable_log_dirty(&mut self) -> Result<()> {
        self.guest.get_mut().disable_log_dirty()
    }
}

impl PvDomain for Acting {}

/// Pages as they were when they were mapped.
struct Copied(Vec<Page>);

impl PageBatch for Copied {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn page(&self, index: usize) -> Option<&Page> {
        self.0.get(index)
    }
}

impl SaveDomain for Acting {
    type Pages<'a> = Copied;

    fn page_types(&self, pfns: &[Pfn], types: &mut [PageType]) -> Result<()> {
        self.moment();
        self.guest.borrow().page_types(pfns, types)?;
        if !self.guest.borrow().is_running() {
            self.looked_up.set(self.looked_up.get() + pfns.len());
        }
        self.moment();
        Ok(())
    }

    fn map_pages<'a>(&'a self, pfns: &'a [Pfn]) -> Result<Copied> {
        self.moment();
        let guest = self.guest.borrow();
        let pages = guest.map_pages(pfns)?;
        let copied = Copied((0..pages.len()).map(|index| *pages.page(index).unwrap()).collect());
        drop(guest);
        self.moment();
        Ok(copied)
    }

    fn cpu_policy(&self) -> Result<CpuPolicy> {
        self.guest.borrow().cpu_policy()
    }

    fn tsc_info(&self) -> Result<TscInfo> {
        self.guest.borrow().tsc_info()
    }

    fn hvm_context(&self, blob: &mut Vec<u8>) -> Result<()> {
        self.guest.borrow().hvm_context(blob)
    }

    fn hvm_param(&self, index: u64) -> Result<u64> {
        self.guest.borrow().hvm_param(index)
    }
}

/// Checkpoints behind the first image.
const CHECKPOINTS: u32 = 2;

/// A protected guest and its copy.
struct Session {
    domain: Acting,
    saver: Saver,
    restorer: Restorer,
    copy: SimDomain,
    round: Round,
    /// Whether the rounds are begun while the guest runs.
    ahead: bool,
}

impl Session {
    /// Up to the first image, which is sent while the guest runs.
    fn begin(mut domain: Acting, ahead: bool) -> Session {
        let config = domain.guest.get_mut().config().clone();
        let mut saver = Saver::new(&mut domain, Default::default()).unwrap();
        let mut stream = Vec::new();
        let mut out = LibxcWriter::<_, Alone>::start(&mut stream, Mode::Remus, 3, saver.header()).unwrap();
        saver.static_data(&domain, &mut out).unwrap();
        saver.start_log(&mut domain).unwrap();
        saver.precopy(&mut domain, &mut out).unwrap();
        domain.suspend().unwrap();
        saver.collect(&mut domain).unwrap();
        saver.send_pages(&domain, &mut out).unwrap();
        saver.send_state(&domain, &mut out).unwrap();
        out.checkpoint().unwrap();
        drop(out);
        let mut copy = SimDomain::empty(&config).unwrap();
        let mut restorer = Restorer::new(&copy, Options::default()).unwrap();
        let framing = Framing { mode: Some(Mode::Remus), ..Framing::default() };
        let mut reader = LibxcReader::<_, Alone>::start(&stream[..], framing);
        restorer.headers(&mut reader).unwrap();
        assert_eq!(restorer.first_image(&mut reader, &mut copy).unwrap(), Ending::Checkpoint);
        Session { domain, saver, restorer, copy, round: Round::default(), ahead }
    }

    /// One more checkpoint, behind some time that the guest runs.
    fn checkpoint(&mut self) {
        let Session { domain, saver, restorer, copy, round, ahead } = self;
        domain.resume().unwrap();
        domain.guest.get_mut().run(3).unwrap();
        domain.moment();
        round.clear();
        if *ahead {
            saver.written(domain).unwrap();
            saver.stage_ahead(domain, round).unwrap();
            domain.guest.get_mut().run(2).unwrap();
        }
        domain.suspend().unwrap();
        saver.collect(domain).unwrap();
        saver.stage_rest(domain, round).unwrap();
        restorer.prepare(round, copy).unwrap();
        restorer.commit(round, copy).unwrap();
    }

    /// Pages that the guest has and that are not the same in the copy.
    fn lost(&self) -> Vec<Pfn> {
        let guest = self.domain.guest.borrow();
        assert_eq!(guest.info().unwrap().run_state(), RunState::Suspended);
        let (original, copy) = (guest.memory(), self.copy.memory());
        original.populated_pfns().filter(|&pfn| copy.page(pfn) != original.page(pfn)).collect()
    }

    /// All checkpoints; what was lost at the first that has lost something.
    fn run(acts: &[(u32, Act)], logs_additions: bool, trusted: bool, ahead: bool) -> (Vec<Pfn>, Session) {
        let domain = Acting::new(guest(&config(logs_additions), 50), acts, trusted);
        let mut session = Session::begin(domain, ahead);
        let mut lost = session.lost();
        for _ in 0..CHECKPOINTS {
            if lost.is_empty() {
                session.checkpoint();
                lost = session.lost();
            }
        }
        (lost, session)
    }
}

fn config(logs_additions: bool) -> SimConfig {
    SimConfig { logs_additions, memory_budget: Some(320), ..SimConfig::small(5) }
}

/// Pages that the workload does not write to, with contents of the guest's image or without.
const QUIET: [Pfn; 4] = [180, 181, 240, 241];
/// A pfn that never had a page.
const HOLE: Pfn = 129;

/// How many moments there are.
fn moments(ahead: bool) -> u32 {
    Session::run(&[], false, false, ahead).1.domain.moment.get()
}

/// What happens at one moment and what happens at a later one: all pairs, or for every so many second moments. Gives the number of runs,
/// and of those that have lost something.
fn pairs(
    ahead: bool,
    trusted: bool,
    logs: bool,
    every: usize,
    acts: impl Fn(u32, u32) -> Vec<(u32, Act)>,
) -> (u32, u32) {
    let (mut runs, mut losses) = (0, 0);
    let moments = moments(ahead);
    for first in 1..=moments {
        for second in (first..=moments).step_by(every) {
            let acts = acts(first, second);
            let (lost, session) = Session::run(&acts, logs, trusted, ahead);
            assert_eq!(session.domain.refused.get(), 0, "{acts:?}");
            assert!(trusted || lost.is_empty(), "{acts:?}, ahead {ahead}: {lost:#x?} lost");
            runs += 1;
            losses += u32::from(!lost.is_empty());
        }
    }
    (runs, losses)
}

fn balloon(first: u32, second: u32) -> Vec<(u32, Act)> {
    let pfn = QUIET[0];
    vec![(first, Act::ClearAndGive(pfn)), (second, Act::Take(pfn)), (second, Act::Fill(pfn, 0x5a))]
}

#[test]
fn what_a_balloon_takes_and_writes_is_in_the_copy_at_every_moment() {
    for ahead in [false, true] {
        let (runs, _) = pairs(ahead, false, false, 1, balloon);
        assert!(runs > 200, "{runs} runs are too few for all moments");
    }
}

/// Moments in which a page that goes may be back without a sign: those of the three hypercalls of a taking ([`returning`]).
///
/// [`returning`]: ../src/libxc/returning.rs
const UNSEEN: u32 = 2;

/// A page that goes before the log of the running guest is taken and is back when it is looked at: what is written to it behind that is
/// in the copy.
#[test]
fn what_is_written_later_to_a_page_that_came_back_is_in_the_copy() {
    let pfn = QUIET[0];
    for ahead in [false, true] {
        for later in [1, 4] {
            let (runs, _) = pairs(ahead, false, false, 2, |first, second| {
                let second = second.max(first + UNSEEN + 1);
                vec![(first, Act::ClearAndGive(pfn)), (second, Act::Take(pfn)), (second + later, Act::Fill(pfn, 0x5a))]
            });
            assert!(runs > 200, "{runs} runs are too few for all moments");
        }
    }
}

/// A page goes and another comes each time, so that the number never differs where it is asked for: what is away shows only in the log of
/// the suspended guest.
#[test]
fn pages_that_take_turns_are_sent_again() {
    let [a, b, ..] = QUIET;
    let turn = |first, second| {
        vec![
            (1, Act::ClearAndGive(b)),
            (first, Act::Take(b)),
            (first, Act::ClearAndGive(a)),
            (second, Act::Take(a)),
            (second, Act::ClearAndGive(b)),
            (second + 3, Act::Fill(a, 0x5a)),
        ]
    };
    for ahead in [false, true] {
        let moments = moments(ahead);
        let mut runs = 0;
        // Behind the log's beginning.
        for first in 12..=moments {
            for second in first + UNSEEN + 1..=(first + 12).min(moments) {
                let acts = turn(first, second);
                let (lost, session) = Session::run(&acts, false, false, ahead);
                assert_eq!(session.domain.refused.get(), 0, "{acts:?}");
                assert!(lost.is_empty(), "{acts:?}, ahead {ahead}: {lost:#x?} lost");
                runs += 1;
            }
        }
        assert!(runs > 100, "{runs} runs");
    }
}

/// The gap itself: who takes that log for enough loses pages.
#[test]
fn a_saver_that_trusts_a_log_that_does_not_tell_loses_pages() {
    for ahead in [false, true] {
        let (runs, losses) = pairs(ahead, true, false, 4, balloon);
        assert!(losses * 5 > runs, "{losses} of {runs} runs");
    }
}

/// And who takes the log of a Xen with the fix for enough does not.
#[test]
fn a_saver_that_trusts_a_log_that_tells_loses_nothing() {
    for ahead in [false, true] {
        let (_, losses) = pairs(ahead, true, true, 4, balloon);
        assert_eq!(losses, 0);
    }
}

/// The number of pages never differs between two looks: a page goes and another one comes at once.
#[test]
fn a_balloon_that_takes_as_many_as_it_gives_is_followed() {
    let swap = |first, second| {
        let [a, b, ..] = QUIET;
        vec![
            (first, Act::ClearAndGive(a)),
            (first, Act::Take(HOLE)),
            (first, Act::Fill(HOLE, 1)),
            (second, Act::ClearAndGive(b)),
            (second, Act::Take(a)),
            (second, Act::Fill(a, 0x77)),
        ]
    };
    pairs(true, false, false, 3, swap);
}

/// Pages that come, written by nobody: they are zero in the copy, and not what was there before.
#[test]
fn what_is_taken_and_not_written_is_in_the_copy_too() {
    let unwritten = |first, second| {
        let pfn = QUIET[0];
        vec![(1, Act::Fill(pfn, 0xee)), (first, Act::ClearAndGive(pfn)), (second, Act::Take(pfn))]
    };
    pairs(false, false, false, 3, unwritten);
}

/// Two pages more than it had, at pfns that never had one; and a guest that does not clear what it gives back.
#[test]
fn what_comes_where_nothing_was_is_found_by_the_number_of_pages() {
    let more = |first, second| {
        vec![
            (first, Act::Take(HOLE)),
            (first, Act::Fill(HOLE, 3)),
            (second, Act::Take(HOLE + 1)),
            (second, Act::Give(QUIET[1])),
            (second, Act::Give(QUIET[2])),
        ]
    };
    pairs(true, false, false, 3, more);
}

#[test]
fn a_page_that_moves_to_where_none_was_is_in_the_copy() {
    let moved = |first, second| vec![(first, Act::Fill(QUIET[0], 9)), (second, Act::Move(QUIET[0], HOLE))];
    pairs(true, false, false, 3, moved);
}

/// The look that goes round comes to each pfn: a page that no sign speaks of is missing for so long, and not for good.
#[test]
fn a_silent_move_is_found_when_the_look_comes_to_it() {
    // The copy keeps what the guest has given up: it needs room for that.
    let budget = Some(2200);
    let config = SimConfig { logs_additions: false, memory: 2048, memory_budget: budget, ..SimConfig::default() };
    // The look goes on by 1,024 pfns a checkpoint; the VGA hole is in its first piece, the other in its tenth.
    for (hole, piece) in [(0xa8, 0), (0x2700, 9)] {
        let domain = Acting::new(guest(&config, 50), &[], false);
        let mut session = Session::begin(domain, false);
        session.domain.guest.get_mut().resume().unwrap();
        let from = 0x500;
        session.domain.guest.get_mut().fill(from, 0x42).unwrap();
        session.domain.guest.get_mut().suspend().unwrap();
        session.checkpoint();
        assert!(session.lost().is_empty());
        session.domain.guest.get_mut().resume().unwrap();
        session.domain.guest.get_mut().move_page(from, hole).unwrap();
        session.domain.guest.get_mut().suspend().unwrap();
        let mut checkpoints = 0;
        loop {
            session.checkpoint();
            checkpoints += 1;
            if session.lost().is_empty() {
                break;
            }
            assert_eq!(session.lost(), [hole]);
            assert!(checkpoints <= session.saver.nr_pfns() / 1024 + 1, "it is not found");
        }
        // Two looks have been, and it goes round.
        let pieces = session.saver.nr_pfns().div_ceil(1024);
        assert_eq!(checkpoints, (piece + pieces - 2) % pieces + 1, "{hole:#x}");
    }
}

/// On a hypervisor whose log tells, nothing is looked up but what is sent; and on one whose log does not, an interval in which nothing has
/// come or gone costs one hypercall.
#[test]
fn the_look_is_made_where_the_log_does_not_tell_and_costs_what_has_changed() {
    let looked_up = |logs_additions, away: u64| {
        let config = SimConfig { logs_additions, memory: 4096, ..SimConfig::default() };
        let mut session = Session::begin(Acting::new(guest(&config, 50), &[], false), false);
        session.domain.guest.get_mut().resume().unwrap();
        for pfn in 0xd00..0xd00 + away {
            session.domain.guest.get_mut().fill(pfn, 0).unwrap();
            session.domain.guest.get_mut().give_back(&[pfn]).unwrap();
        }
        session.domain.guest.get_mut().suspend().unwrap();
        session.checkpoint();
        session.domain.looked_up.set(0);
        session.checkpoint();
        (session.domain.looked_up.get() - session.round.entries().len()) as u64
    };
    assert_eq!(looked_up(true, 0), 0);
    assert_eq!(looked_up(true, 700), 0);
    assert_eq!(looked_up(false, 0), 1024);
    assert_eq!(looked_up(false, 700), 1724);
}

/// Without what takes a page back within [`UNSEEN`] moments.
fn apart(mut acts: Vec<(u32, Act)>) -> Vec<(u32, Act)> {
    acts.sort_by_key(|(moment, _)| *moment);
    let mut gone = [0; QUIET.len()];
    acts.retain(|&(moment, act)| {
        let at = |pfn| QUIET.iter().position(|&quiet| quiet == pfn).unwrap();
        match act {
            Act::ClearAndGive(pfn) => gone[at(pfn)] = moment,
            Act::Take(pfn) => return moment - gone[at(pfn)] > UNSEEN,
            _ => {}
        }
        true
    });
    acts
}

fn acts() -> impl Strategy<Value = Vec<(u32, Act)>> {
    let pfn = || prop::sample::select(&QUIET[..]);
    let act = prop_oneof![
        3 => pfn().prop_map(Act::ClearAndGive),
        3 => pfn().prop_map(Act::Take),
        4 => (pfn(), any::<u8>()).prop_map(|(pfn, byte)| Act::Fill(pfn, byte)),
    ];
    prop::collection::vec((1u32..100, act), 1..24).prop_map(apart)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Any number of pages, in any order, at any moments.
    #[test]
    fn a_guest_that_balloons_is_the_same_at_each_checkpoint(acts in acts(), ahead in any::<bool>(), logs in any::<bool>()) {
        let (lost, _) = Session::run(&acts, logs, false, ahead);
        prop_assert!(lost.is_empty(), "{lost:#x?} lost");
    }
}

/// The guest's own program balloons: its state is checked by itself behind a failover, too.
#[test]
fn a_guest_whose_program_balloons_goes_on_from_each_checkpoint() {
    for (logs_additions, trusted, whole) in [(false, false, true), (true, false, true), (false, true, false)] {
        let config = SimConfig { balloon_pages: 20, balloon_every: 2, ..config(logs_additions) };
        let mut session = Session::begin(Acting::new(guest(&config, 50), &[], trusted), true);
        let mut damaged = 0;
        for _ in 0..30 {
            session.checkpoint();
            damaged += u32::from(session.copy.self_check().is_err());
            assert!(session.lost().is_empty() || !whole);
        }
        assert_eq!(damaged == 0, whole, "{damaged} of 30 checkpoints are damaged");
        session.domain.guest.get_mut().self_check().unwrap();
    }
}
