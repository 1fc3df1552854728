//! A place in a session from which on one direction carries nothing, for tests of what fails in the middle of a checkpoint.
//!
//! Named by a message, as `--cut MESSAGE@N[+BYTES]` (hidden from the help): so many bytes from the first one of the N-th
//! message of that name on still pass. `channel-ID` is where a multifd channel begins, `channel-ID-sync` what it sends from one SYNC up to
//! the next one, counted from checkpoint-ready on: the image has as many as its rounds take, a checkpoint has two. What comes behind is
//! seen and recorded, and goes nowhere, as when a cable was drawn.
#![forbid(unsafe_code)]

use super::event::{Event, What};
use super::recording::Direction;
use std::num::NonZeroU64;
use std::str::FromStr;

/// Where a direction ends to carry anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    name: String,
    /// How many of them are still to come, this one counted.
    left: u64,
    bytes: u64,
    /// Whether the secondary has the image: SYNCs are counted from there on.
    ready: bool,
    /// Connection, where it is not the main one; direction and offset.
    place: Option<(Option<u16>, Direction, u64)>,
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not MESSAGE@N[+BYTES]");
        let (name, rest) = text.split_once('@').ok_or_else(wrong)?;
        let (nth, bytes) = rest.split_once('+').unwrap_or((rest, "0"));
        let nth: NonZeroU64 = nth.parse().map_err(|_| wrong())?;
        let bytes = bytes.parse().map_err(|_| wrong())?;
        Ok(Cut { name: name.into(), left: nth.get(), bytes, ready: false, place: None })
    }
}

impl Cut {
    /// Looks for the message.
    pub(super) fn see(&mut self, event: &Event) {
        let id = event.channel.and_then(|channel| channel.id).unwrap_or_default();
        let name = match &event.what {
            What::Message { name, .. } => (*name).to_owned(),
            What::Channel { .. } => format!("channel-{id}"),
            What::Sync { .. } if self.ready => format!("channel-{id}-sync"),
            _ => return,
        };
        self.ready |= name == "checkpoint-ready";
        if self.place.is_none() && name == self.name {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                let connection = event.channel.map(|channel| channel.connection);
                self.place = Some((connection, event.direction, event.offset.saturating_add(self.bytes)));
            }
        }
    }

    /// How many of `bytes` bytes from `offset` of a direction on may pass.
    pub(super) fn passes(&self, connection: Option<u16>, direction: Direction, offset: u64, bytes: usize) -> usize {
        match self.place {
            Some((on, cut, place)) if on == connection && cut == direction => {
                usize::try_from(place.saturating_sub(offset)).map_or(bytes, |left| left.min(bytes))
            }
            _ => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Channel;
    use super::*;
    use crate::decode::qemu_stream::Ram;
    use std::time::Duration;

    fn message(name: &'static str, offset: u64) -> Event {
        let what = What::Message { name, size: None, value: None };
        Event {
            direction: Direction::Back,
            channel: None,
            at: Duration::ZERO,
            since: Duration::ZERO,
            offset,
            bytes: 4,
            what,
        }
    }

    #[test]
    fn the_nth_message_of_a_name_is_where_it_ends() {
        let mut cut: Cut = "vmstate-loaded@2+3".parse().unwrap();
        for (name, offset) in [("vmstate-loaded", 10), ("vmstate-received", 20)] {
            cut.see(&message(name, offset));
            assert_eq!(cut.passes(None, Direction::Back, 0, 100), 100);
        }
        cut.see(&message("vmstate-loaded", 30));
        cut.see(&message("vmstate-loaded", 40));
        assert_eq!(cut.passes(None, Direction::Forward, 0, 100), 100);
        assert_eq!([0, 20, 33, 40].map(|offset| cut.passes(None, Direction::Back, offset, 20)), [20, 13, 0, 0]);
    }

    #[test]
    fn a_channels_syncs_are_counted_from_behind_the_image() {
        let mut cut: Cut = "channel-1-sync@2+5".parse().unwrap();
        let sync = |id, offset| {
            let what = What::Sync { sync: 1, packets: 1, ram: Ram::default(), packed: None };
            let channel = Some(Channel { connection: 7, id: Some(id) });
            Event { channel, direction: Direction::Forward, what, ..message("", offset) }
        };
        for event in
            [sync(1, 100), sync(1, 200), message("checkpoint-ready", 8), sync(0, 300), sync(1, 300), sync(0, 400)]
        {
            cut.see(&event);
            assert_eq!(cut.passes(Some(7), Direction::Forward, 0, 1000), 1000);
        }
        cut.see(&sync(1, 400));
        assert_eq!(cut.passes(Some(7), Direction::Forward, 0, 1000), 405);
        assert_eq!(cut.passes(None, Direction::Forward, 0, 1000), 1000);
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for text in ["", "vmstate-send", "vmstate-send@", "vmstate-send@0", "vmstate-send@1+", "vmstate-send@1+x"] {
            assert!(text.parse::<Cut>().unwrap_err().contains("MESSAGE@N"), "{text}");
        }
    }
}
