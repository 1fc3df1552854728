//! What the fuzz targets do with their bytes, apart from the targets so that the package's own tests run the same
//! checks over every seed and every finding.
//!
//! * [`streams`] holds a stream against the three ways in and what stands on them; [`Steered`] is its input.
//! * [`blobs`] holds any bytes against every decoder, [`packed`] against the unpackers, [`containers`] against
//!   the containers and what is no stream at all.
//! * [`images`] takes the images out of a stream, in every form, and compares them.
//! * [`moving`] takes any bytes for what goes from one Xen to another.
//! * [`taps`] follows any bytes as a COLO session, and reads them as the recording of one.

pub mod blobs;
pub mod containers;
pub mod images;
pub mod moving;
pub mod packed;
pub mod steered;
pub mod streams;
pub mod taps;

pub use steered::Steered;
