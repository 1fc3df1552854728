//! The save helper as a whole, on a thread, against somebody who plays libxl at both ends.

#[path = "save_helper/guest.rs"]
mod guest;
#[path = "save_helper/world.rs"]
mod world;

#[path = "save_helper/install.rs"]
mod install;
#[path = "save_helper/plain.rs"]
mod plain;
#[path = "save_helper/rounds.rs"]
mod rounds;
#[path = "save_helper/trouble.rs"]
mod trouble;
