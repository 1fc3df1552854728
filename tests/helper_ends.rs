//! The save helper as a whole, on a thread, against somebody who plays libxl at both ends.

#[path = "helper_ends/guest.rs"]
mod guest;
#[path = "helper_ends/world.rs"]
mod world;

#[path = "helper_ends/large.rs"]
mod large;
#[path = "helper_ends/limits.rs"]
mod limits;
#[path = "helper_ends/plain.rs"]
mod plain;
#[path = "helper_ends/rounds.rs"]
mod rounds;
#[path = "helper_ends/torn.rs"]
mod torn;
#[path = "helper_ends/trouble.rs"]
mod trouble;
