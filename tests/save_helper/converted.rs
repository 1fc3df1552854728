//! A checkpoint of a Remus stream, made a plain image: what Debian's helper makes of it.

use crate::home::{assert_carried, assert_restored};
use crate::plain::{configs, they_restore};
use crate::remus::{their_stream, we_take_over};
use std::fs::{self, File};
use xen_domain_image::plain::{self, Container};
use xen_domain_image::{Image, Options};
use xen_replicate::stream::framer::Options as Framing;
use xen_replicate::stream::reader::SliceReader;
use xen_replicate::stream::{Mode, Start};

/// Offset behind a whole checkpoint, counted from 1.
fn end_of(stream: &[u8], checkpoint: u64) -> usize {
    let framing = Framing { start: Some(Start::Libxl), mode: Some(Mode::Remus), ..Framing::default() };
    let mut reader = SliceReader::new(stream, framing);
    while reader.framer().checkpoints() < checkpoint {
        reader.next_item().unwrap().expect("so many checkpoints");
    }
    reader.framer().checkpoint_end() as usize
}

#[test]
#[ignore = "long"]
fn their_helper_restores_each_of_their_checkpoints_as_an_image_of_its_own() {
    for config in configs() {
        let (home, stream) = their_stream(&config, 4);
        let bytes = fs::read(&stream).unwrap();
        for checkpoint in 1..=4 {
            let options = Options { checkpoint: Some(checkpoint), ..Options::default() };
            let image = Image::open(File::open(&stream).unwrap(), &options).unwrap();
            let path = home.path(&format!("image-{checkpoint}"));
            plain::write(&image, Container::Libxc, File::create(&path).unwrap()).unwrap();
            let restored = they_restore(&config, &path);
            let cut = home.path(&format!("cut-{checkpoint}"));
            fs::write(&cut, &bytes[..end_of(&bytes, checkpoint)]).unwrap();
            let (gone_over, taken) = we_take_over(&config, &cut);
            assert_eq!(u64::from(taken), checkpoint);
            assert_carried(&gone_over, &restored);
            if checkpoint == 4 {
                assert_restored(&home.after(), &restored);
            }
        }
    }
}
