//! The copy against a model: whatever happens to the daemon, the image is that of a committed checkpoint.

use super::super::folder::{Folder, Stage};
use super::super::image::Image;
use super::super::journal::Op;
use super::super::wire::{Hello, Point};
use super::super::{Error, Mark};
use super::Store;
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use tempfile::TempDir;

const SIZE: usize = 8192;
const RUN: u64 = 77;
const NAME: &str = "/dev/nbd0";

/// A write at an offset: bytes, or as many zeroes.
type Write = (usize, usize, Option<u8>);

fn point(number: u64) -> Point {
    Point { seq: number + 10, mark: mark(number), disks: 2 }
}

fn mark(number: u64) -> Mark {
    Mark { session: 5, checkpoint: number }
}

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("image"), vec![0xee; SIZE]).unwrap();
        Place { folder }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn open(&self) -> super::Result<Store> {
        self.open_with(1 << 20, false)
    }

    fn open_with(&self, limit: u64, anew: bool) -> super::Result<Store> {
        Store::open(Image::open(&self.image())?, Folder::open(&self.state())?, NAME, limit, anew)
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.image()).unwrap()
    }

    /// The same place, as a host that died would have left it.
    fn copy(&self) -> Place {
        let folder = TempDir::new().unwrap();
        fs::copy(self.image(), folder.path().join("image")).unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        for entry in fs::read_dir(self.state()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.path().join("state").join(entry.file_name())).unwrap();
        }
        let place = Place { folder };
        // The state has the image's path in it.
        let path = place.state().join("state");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(self.image().to_str().unwrap(), place.image().to_str().unwrap())).unwrap();
        place
    }

    fn epochs(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.state()).unwrap().map(|entry| entry.unwrap().path());
        let mut epochs: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "epoch")).collect();
        epochs.sort();
        epochs
    }
}

fn hello(run: u64, flag: bool) -> Hello {
    Hello { flag, size: SIZE as u64, run, name: NAME.into() }
}

fn write(store: &mut Store, model: &mut [u8], &(offset, length, byte): &Write) {
    match byte {
        Some(byte) => {
            let bytes = vec![byte; length];
            store.write(Op::Write { offset: offset as u64, bytes: &bytes }).unwrap();
        }
        None => store.write(Op::Zero { offset: offset as u64, length: length as u64 }).unwrap(),
    }
    model[offset..offset + length].fill(byte.unwrap_or(0));
}

/// A copy with a complete image, and its model.
fn synced(place: &Place) -> (Store, Vec<u8>) {
    let mut store = place.open().unwrap();
    assert!(!store.hello(&hello(RUN, false)).unwrap());
    store.reset(RUN).unwrap();
    let mut model = vec![0; SIZE];
    write(&mut store, &mut model, &(100, 3000, Some(9)));
    store.synced().unwrap();
    assert_eq!(place.content(), model);
    (store, model)
}

fn is_missing<T>(result: &super::Result<T>) -> bool {
    matches!(result, Err(Error::NotThere { .. }))
}

fn commit(store: &mut Store, number: u64) -> super::Result<u32> {
    let redo = store.commit(mark(number))?;
    redo.run()?;
    store.done(&redo)?;
    Ok(redo.disks)
}

fn promoted(store: &mut Store, number: u64) -> super::Result<()> {
    commit(store, number)?;
    store.promote(mark(number))
}

fn writes() -> impl Strategy<Value = Vec<Vec<Write>>> {
    let write = (0..SIZE - 600, 1..600usize, prop::option::of(1..=255u8));
    prop::collection::vec(prop::collection::vec(write, 0..5), 2..5)
}

/// Checkpoint 1 as the base, then an epoch for each. Gives the content at each checkpoint.
fn keep(store: &mut Store, model: &mut [u8], epochs: &[Vec<Write>]) -> Vec<Vec<u8>> {
    store.mark(point(1)).unwrap();
    let mut at = vec![model.to_owned()];
    for (index, epoch) in epochs.iter().enumerate() {
        epoch.iter().for_each(|each| write(store, model, each));
        store.mark(point(index as u64 + 2)).unwrap();
        at.push(model.to_owned());
    }
    at
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn each_checkpoint_can_be_gone_on_from_and_none_but_those(epochs in writes(), from: prop::sample::Index) {
        let place = Place::new();
        let (mut store, mut model) = synced(&place);
        let at = keep(&mut store, &mut model, &epochs);
        let number = from.index(at.len()) as u64 + 1;
        write(&mut store, &mut model, &(0, 50, Some(200)));
        for committed in 1..=number {
            prop_assert_eq!(commit(&mut store, committed).unwrap(), 2);
            prop_assert_eq!(&place.content(), &at[committed as usize - 1]);
        }
        // It is started anew in between.
        drop(store);
        let mut store = place.open().unwrap();
        for wrong in [Mark { session: 6, checkpoint: number }, mark(0), mark(at.len() as u64 + 1)] {
            prop_assert!(is_missing(&store.commit(wrong)));
        }
        if number > 1 {
            prop_assert!(is_missing(&store.commit(mark(number - 1))));
        }
        promoted(&mut store, number).unwrap();
        drop(store);
        prop_assert_eq!(&place.content(), &at[number as usize - 1]);
        prop_assert!(place.epochs().is_empty());
        let store = place.open().unwrap();
        prop_assert_eq!((store.stage(), store.committed()), (Stage::Serving, Some(point(number))));
        prop_assert_eq!(&place.content(), &at[number as usize - 1]);
    }

    /// The host dies with any part of the epoch that is being appended on disk.
    #[test]
    fn a_host_that_dies_while_appending_keeps_what_was_marked(epochs in writes(), bytes: prop::sample::Index) {
        let place = Place::new();
        let (mut store, mut model) = synced(&place);
        let at = keep(&mut store, &mut model, &epochs);
        drop(store);
        let copy = place.copy();
        let last = copy.epochs().pop().unwrap();
        let whole = fs::read(&last).unwrap();
        fs::write(&last, &whole[..bytes.index(whole.len())]).unwrap();
        let marked = at.len() as u64 - 1;
        let mut store = copy.open().unwrap();
        prop_assert_eq!(store.newest(), Some(point(marked)));
        prop_assert!(is_missing(&promoted(&mut store, marked + 1)));
        promoted(&mut store, marked).unwrap();
        prop_assert_eq!(&copy.content(), &at[marked as usize - 1]);
    }

    /// The daemon dies behind any byte that it has applied, and again when it does that anew.
    #[test]
    fn a_commit_that_was_half_applied_is_applied_again(epochs in writes(), bytes in prop::collection::vec(0..2000u64, 1..4)) {
        let place = Place::new();
        let (mut store, mut model) = synced(&place);
        let at = keep(&mut store, &mut model, &epochs);
        let last = at.len() as u64;
        let mut redo = Ok(store.commit(mark(last)).unwrap());
        let mut opened = Some(store);
        for fuse in bytes {
            if let Ok(redo) = &redo {
                redo.image.fuse.store(fuse, SeqCst);
                let _ = redo.run();
            }
            drop(opened.take());
            redo = Err(());
            let image = Image::open(&place.image());
            // The lock goes with the last who has the image.
            let Ok(image) = image else { continue };
            image.fuse.store(fuse, SeqCst);
            opened = Store::open(image, Folder::open(&place.state()).unwrap(), NAME, 1 << 20, false).ok();
        }
        drop((opened, redo));
        let mut store = place.open().unwrap();
        prop_assert_eq!(store.committed(), Some(point(last)));
        prop_assert_eq!(&place.content(), &at[last as usize - 1]);
        promoted(&mut store, last).unwrap();
        prop_assert_eq!(&place.content(), &at[last as usize - 1]);
    }

    /// A new protection: the copy follows again, whatever was kept; and what is in the epochs is not lost.
    #[test]
    fn what_was_kept_is_a_part_of_the_copy_when_it_follows(epochs in writes(), committed: prop::sample::Index, fuse in 0..4000u64) {
        let place = Place::new();
        let (mut store, mut model) = synced(&place);
        let at = keep(&mut store, &mut model, &epochs);
        commit(&mut store, committed.index(at.len()) as u64 + 1).unwrap();
        store.image.fuse.store(fuse, SeqCst);
        prop_assert!(matches!(store.hello(&hello(RUN, false)), Err(Error::Holds(_))));
        let followed = store.hello(&hello(RUN, true));
        drop(store);
        let mut store = place.open().unwrap();
        if let Ok(known) = followed {
            prop_assert!(known);
            prop_assert_eq!(store.stage(), Stage::Following);
        }
        if store.stage() == Stage::Following {
            prop_assert_eq!(&place.content(), &model);
            prop_assert!(is_missing(&store.commit(mark(1))));
        }
        prop_assert!(store.hello(&hello(RUN, true)).unwrap());
        write(&mut store, &mut model, &(1, 7, Some(1)));
        prop_assert_eq!(&place.content(), &model);
    }
}

#[test]
fn nothing_counts_before_the_copy_is_complete() {
    let place = Place::new();
    let mut store = place.open().unwrap();
    assert!(matches!(store.mark(point(1)), Err(Error::Protocol(_))));
    store.reset(RUN).unwrap();
    store.write(Op::Write { offset: 0, bytes: &[1] }).unwrap();
    assert!(matches!(store.mark(point(1)), Err(Error::Protocol(_))));
    assert!(matches!(promoted(&mut store, 1), Err(Error::NotThere { .. })));
    drop(store);
    let mut store = place.open().unwrap();
    assert_eq!(store.stage(), Stage::Empty);
    // What was sent last is enough for a primary that knows it.
    assert!(store.hello(&hello(RUN, false)).unwrap());
    assert!(!store.hello(&hello(RUN + 1, false)).unwrap());
}

#[test]
fn a_full_journal_and_what_is_outside_are_refused_and_the_checkpoint_stays() {
    let place = Place::new();
    let (store, _) = synced(&place);
    drop(store);
    let mut store = place.open_with(2000, false).unwrap();
    store.mark(point(1)).unwrap();
    commit(&mut store, 1).unwrap();
    let before = place.content();
    store.write(Op::Write { offset: 0, bytes: &[1; 1500] }).unwrap();
    assert!(matches!(store.write(Op::Write { offset: 0, bytes: &[1; 1500] }), Err(Error::JournalFull { limit: 2000 })));
    let outside = Op::Write { offset: SIZE as u64 - 1, bytes: &[1, 2] };
    assert!(matches!(store.write(outside), Err(Error::Outside { .. })));
    assert!(store.kept() > 1500);
    store.forget_open().unwrap();
    assert_eq!(store.kept(), 0);
    promoted(&mut store, 1).unwrap();
    assert_eq!(place.content(), before);
}

#[test]
fn other_disks_wrong_order_and_an_image_in_service_are_refused() {
    let place = Place::new();
    let (mut store, _) = synced(&place);
    for other in [Hello { size: 512, ..hello(RUN, true) }, Hello { name: "/dev/nbd1".into(), ..hello(RUN, true) }] {
        let error = store.hello(&other).unwrap_err().to_string();
        assert!(error.contains(&other.size.to_string()) && error.contains(&other.name), "{error}");
    }
    store.mark(point(3)).unwrap();
    assert!(matches!(store.mark(point(3)), Err(Error::Protocol(_))));
    assert!(matches!(store.synced(), Err(Error::Protocol(_))));
    promoted(&mut store, 3).unwrap();
    let content = place.content();
    assert!(matches!(store.hello(&hello(RUN, true)), Err(Error::InService)));
    assert!(matches!(store.reset(1), Err(Error::InService)));
    assert!(matches!(store.write(Op::Zero { offset: 0, length: 9 }), Err(Error::InService)));
    assert!(matches!(store.follow(), Err(Error::InService)));
    drop(store);
    let (image, folder) = (Image::open(&place.image()).unwrap(), Folder::open(&place.state()).unwrap());
    super::serve(&image, &folder, NAME, false).unwrap();
    assert!(matches!(super::serve(&image, &folder, "/dev/nbd1", false), Err(Error::State { .. })));
    drop((image, folder));
    assert_eq!(place.content(), content);
    let store = place.open_with(1 << 20, true).unwrap();
    assert_eq!((store.stage(), store.committed()), (Stage::Empty, None));
    let (image, folder) = {
        drop(store);
        (Image::open(&place.image()).unwrap(), Folder::open(&place.state()).unwrap())
    };
    assert!(matches!(super::serve(&image, &folder, NAME, false), Err(Error::IsCopy)));
}

#[test]
fn a_committed_epoch_that_is_damaged_is_told() {
    let place = Place::new();
    let (mut store, mut model) = synced(&place);
    keep(&mut store, &mut model, &[vec![(0, 100, Some(3))], vec![(50, 100, Some(4))]]);
    // Its commit is put down, and it is not applied.
    store.commit(mark(3)).unwrap();
    drop(store);
    let [first, _] = &place.epochs()[..] else { panic!("{:?}", place.epochs()) };
    let mut bytes = fs::read(first).unwrap();
    bytes[60] ^= 1;
    fs::write(first, bytes).unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(&error, Error::Damaged { path, .. } if Path::new(path) == first), "{error}");
}
