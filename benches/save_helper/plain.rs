//! Plain images of a guest that stands still, from files and pipes and back.

use crate::Result;
use crate::helper::{Program, Stream, Time, Tools};
use crate::home::Homes;
use memmap2::Mmap;
use rustix::pipe::{SpliceFlags, splice};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::thread;
use xen_replicate::save_helper::StreamType;

/// Bytes that the other end of a pipe reads or writes at a time.
const PIECE: usize = 256 << 10;

/// Saves by both helpers into the two files, which all restores read from, and holds them against each other.
pub fn same_streams(tools: &Tools, homes: &Homes) -> Result<()> {
    let mut lengths = Vec::new();
    for program in [Program::Debians, Program::Ours] {
        let path = homes.stream("new");
        fs::write(&path, [])?;
        tools.save(program, &homes.still, Stream::To(&path), StreamType::Plain)?.finish()?;
        lengths.push(fs::metadata(&path)?.len());
        let old = homes.stream(program.file());
        // What was allocated beyond the stream's end goes.
        File::options().write(true).open(&old)?.set_len(fs::metadata(&path)?.len())?;
        fs::remove_file(path)?;
        save_file(tools, homes, program)?;
    }
    let (theirs, ours) = (map(&homes.stream("theirs"))?, map(&homes.stream("ours"))?);
    if theirs[..] != ours[..] {
        return Err(format!("the two streams differ: {lengths:?} bytes").into());
    }
    Ok(())
}

fn map(path: &Path) -> Result<Mmap> {
    // SAFETY: the file is in a folder of this program's own, and while it is mapped nobody writes to it.
    Ok(unsafe { Mmap::map(&File::open(path)?)? })
}

/// Into a file whose memory is allocated.
pub fn save_file(tools: &Tools, homes: &Homes, program: Program) -> Result<Time> {
    let path = homes.stream(program.file());
    tools.save(program, &homes.still, Stream::Over(&path), StreamType::Plain)?.finish()
}

/// Into nothing.
pub fn save_null(tools: &Tools, homes: &Homes, program: Program) -> Result<Time> {
    let stream = Stream::To(Path::new("/dev/null"));
    tools.save(program, &homes.still, stream, StreamType::Plain)?.finish()
}

/// Into a pipe that a thread reads.
pub fn save_pipe(tools: &Tools, homes: &Homes, program: Program) -> Result<Time> {
    let path = homes.fifo();
    thread::scope(|scope| {
        let reading = scope.spawn(|| drain(&path));
        let time = tools.save(program, &homes.still, Stream::To(&path), StreamType::Plain)?.finish()?;
        reading.join().map_err(|_| "the reader has panicked")?.map_err(|error| format!("the reader: {error}"))?;
        Ok(time)
    })
}

fn drain(path: &Path) -> std::io::Result<()> {
    let (mut pipe, mut buffer) = (File::open(path)?, vec![0; PIECE]);
    while pipe.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Out of a file.
pub fn restore_file(tools: &Tools, homes: &Homes, program: Program) -> Result<Time> {
    let path = homes.stream(Program::Debians.file());
    tools.restore(program, &homes.empty, Stream::From(&path))?.finish()
}

/// Out of a pipe into which a thread splices a file in memory: nothing but the helper copies.
pub fn restore_pipe(tools: &Tools, homes: &Homes, program: Program) -> Result<Time> {
    let (path, stream) = (homes.fifo(), File::open(homes.stream(Program::Debians.file()))?);
    thread::scope(|scope| {
        let writing = scope.spawn(|| -> std::io::Result<()> {
            let pipe = File::options().write(true).open(&path)?;
            while splice(&stream, None, &pipe, None, PIECE, SpliceFlags::empty())? > 0 {}
            Ok(())
        });
        let time = tools.restore(program, &homes.empty, Stream::From(&path))?.finish()?;
        writing.join().map_err(|_| "the writer has panicked")?.map_err(|error| format!("the writer: {error}"))?;
        Ok(time)
    })
}
