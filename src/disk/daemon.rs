//! A disk's daemon: the process that has the image, as the primary or as the keeper.
#![forbid(unsafe_code)]

use super::control::{self, Reply, Request, Role, Status};
use super::error::{Error, Result, io};
use super::folder::{Folder, Stage};
use super::image::Image;
use super::keeper::Keeper;
use super::source::{Limits, Source};
use super::store::{self, Store};
use super::{Device, Mark, nbd, source_link};
use crate::control::Server;
use crate::control::server::Handler;
use crate::transport::{Address, Listener};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a daemon is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// A raw file, or a block device.
    pub image: PathBuf,
    /// The guest's device.
    pub device: Device,
    /// Where NBD is served.
    pub socket: PathBuf,
    /// Where the daemon keeps what must outlive it.
    pub folder: PathBuf,
    /// A piece of shell that has the guest's device appear once the disk is served; empty for none.
    pub attach: String,
    /// Most bytes that wait for the keeper.
    pub buffer: usize,
    /// Most bytes of writes that are kept apart.
    pub journal: u64,
    /// How long the keeper may take to answer, or to take bytes.
    pub patience: Duration,
    /// Forget what the image was before.
    pub anew: bool,
    /// A copy may take the place of what an image has that is not known to be one.
    pub overwrite: bool,
}

/// The roles that a daemon can begin in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Serve the guest; the keeper, if there is one, is there.
    Serve(Option<Address>),
    /// Keep a copy, of a primary that connects there.
    Keep(Address),
}

/// A daemon at work. It ends with the process.
#[derive(Debug)]
pub struct Daemon {
    options: Options,
    side: Mutex<Side>,
    service: Mutex<Service>,
}

#[derive(Debug, Clone)]
enum Side {
    Primary(Arc<Source>),
    Keeper(Arc<Keeper>),
}

/// Held by who puts the disk into service, from end to end.
#[derive(Debug, Default)]
struct Service {
    /// The checkpoint that it went into service at.
    at: Option<Mark>,
    attached: bool,
}

impl Daemon {
    /// Begins. A copy that was put into service before is served again, whatever was asked for. It can be asked for as long as the second
    /// value lives.
    ///
    /// # Errors
    /// The image or the folder cannot be had, or is of no use; the system's.
    pub fn start(options: Options, begin: Begin) -> Result<(Arc<Self>, Server)> {
        let image = Image::open(&options.image)?;
        let folder = Folder::open(&options.folder)?;
        let name = options.device.name().to_owned();
        let before = folder.load()?.filter(|_| !options.anew);
        if before.is_none() {
            match begin {
                Begin::Serve(_) => image.must_be_raw()?,
                Begin::Keep(_) if options.anew || options.overwrite => {}
                Begin::Keep(_) => image.must_be_empty()?,
            }
        }
        let in_service = before.as_ref().is_some_and(|state| state.stage == Stage::Serving);
        let mut service = Service::default();
        let side = match begin {
            Begin::Keep(at) if !in_service => {
                let listener = Listener::bind(&at).map_err(io("listening"))?;
                let at = listener.address().map_err(io(&at))?;
                let store = Store::open(image, folder, &name, options.journal, options.anew)?;
                let keeper = Arc::new(Keeper::new(store, &name));
                keeper.listen(listener).map_err(io(&at))?;
                log::info!("{name}: keeping a copy in {}, of whoever connects to {at}", options.image.display());
                Side::Keeper(keeper)
            }
            begin => {
                store::serve(&image, &folder, &name, options.anew)?;
                service.at = before.and_then(|state| state.at).map(|point| point.mark);
                let peer = match begin {
                    Begin::Serve(peer) => peer,
                    Begin::Keep(_) => {
                        log::warn!("{name}: it was put into service here, and is served; --anew gives its content up");
                        None
                    }
                };
                Side::Primary(serve(&options, Arc::new(image), folder, peer)?)
            }
        };
        let is_primary = matches!(side, Side::Primary(_));
        let daemon = Arc::new(Daemon { options, side: Mutex::new(side), service: Mutex::new(service) });
        if is_primary {
            daemon.attach(&mut daemon.service())?;
        }
        let answering = Arc::clone(&daemon);
        let path = control::path(&name)?;
        let handler: Handler<Request> = Arc::new(move |request| answering.answer(request));
        let server = Server::answer(&path, handler).map_err(io(path.display()))?;
        Ok((daemon, server))
    }

    fn side(&self) -> Side {
        self.side.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Status => Reply { status: Some(self.status()), ..Reply::done() },
            Request::Begin { session } => self.primary().and_then(|disk| disk.begin(session)).into(),
            Request::Synced { timeout_ms } => {
                let patience = Duration::from_millis(timeout_ms).min(Duration::from_secs(60));
                match self.primary().and_then(|disk| disk.synced(patience)) {
                    Ok(percent) => Reply { percent: Some(percent), ..Reply::done() },
                    Err(error) => Err::<(), _>(error).into(),
                }
            }
            Request::Close { mark, disks } => match self.primary().and_then(|disk| disk.close(mark, disks)) {
                Ok(seq) => Reply { seq: Some(seq), ..Reply::done() },
                Err(error) => Err::<(), _>(error).into(),
            },
            Request::Wait { seq } => self.primary().and_then(|disk| disk.wait(seq, self.options.patience)).into(),
            Request::Leave => self.primary().map(|disk| disk.leave()).into(),
            Request::To { address } => self.set_peer(&address).into(),
            Request::Commit { mark } => match self.keeper().and_then(|keeper| keeper.commit(mark)) {
                Ok(disks) => Reply { disks: Some(disks), ..Reply::done() },
                Err(error) => Err::<(), _>(error).into(),
            },
            Request::Promote { mark } => self.promote(mark).into(),
        }
    }

    fn primary(&self) -> Result<Arc<Source>> {
        match self.side() {
            Side::Primary(source) => Ok(source),
            Side::Keeper(_) => Err(Error::Role { is: "kept", wanted: "in service" }),
        }
    }

    fn keeper(&self) -> Result<Arc<Keeper>> {
        match self.side() {
            Side::Keeper(keeper) => Ok(keeper),
            Side::Primary(_) => Err(Error::Role { is: "in service", wanted: "kept" }),
        }
    }

    fn set_peer(&self, address: &str) -> Result<()> {
        // Whoever may write to this socket is trusted with the disk, and says where it goes.
        let address = Address::parse(address, true).map_err(|error| Error::Told(error.to_string()))?;
        self.primary()?.set_peer(address);
        Ok(())
    }

    fn promote(&self, mark: Option<Mark>) -> Result<()> {
        let mut service = self.service();
        match self.side() {
            Side::Primary(_) if mark.is_some() && service.at == mark => {}
            Side::Primary(_) => return Err(Error::Role { is: "in service", wanted: "kept" }),
            Side::Keeper(keeper) => {
                let committed = || keeper.figures().and_then(|figures| figures.committed);
                let mark = match mark.or_else(committed) {
                    Some(mark) => mark,
                    None => {
                        let has = "none was committed".into();
                        return Err(Error::NotThere { wanted: Mark::default(), has });
                    }
                };
                let (image, folder) = keeper.promote(mark)?;
                log::warn!("{}: put into service at checkpoint {mark}", self.options.device);
                service.at = Some(mark);
                let source = serve(&self.options, image, folder, None)?;
                *self.side.lock().unwrap_or_else(PoisonError::into_inner) = Side::Primary(source);
            }
        }
        self.attach(&mut service)
    }

    /// Has the guest's device appear.
    fn attach(&self, service: &mut Service) -> Result<()> {
        if service.attached || self.options.attach.is_empty() {
            return Ok(());
        }
        let named = |error| io(format_args!("{:?}", self.options.attach))(error);
        let status = Command::new("/bin/sh")
            .args(["-c", &self.options.attach])
            .env("XEN_REPLICATE_SOCKET", &self.options.socket)
            .env("XEN_REPLICATE_DEVICE", self.options.device.name())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(named)?;
        if !status.success() {
            return Err(named(std::io::Error::other(format!("it has ended with {status}"))));
        }
        service.attached = true;
        Ok(())
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let Options { device, image, socket, .. } = &self.options;
        let text = |path: &Path| path.display().to_string();
        let status =
            Status { device: device.to_string(), image: text(image), socket: text(socket), ..Status::default() };
        match self.side() {
            Side::Primary(source) => {
                let figures = source.figures();
                let phase = match (figures.up, figures.percent, figures.marked) {
                    (false, ..) => "alone",
                    (true, 100, true) => "keeping",
                    (true, 100, false) => "following",
                    (true, ..) => "syncing",
                };
                Status {
                    role: Role::Primary,
                    size: source.image.size(),
                    peer: figures.peer,
                    connected: figures.up,
                    percent: figures.percent,
                    phase: phase.into(),
                    waiting: figures.queued,
                    newest: figures.checkpoint,
                    trouble: figures.trouble,
                    ..status
                }
            }
            Side::Keeper(keeper) => {
                let status = Status { role: Role::Keeper, ..status };
                // It is on its way into service.
                let Some(figures) = keeper.figures() else { return status };
                let phase = match figures.state.stage {
                    Stage::Empty => "incomplete",
                    Stage::Following => "following",
                    Stage::Keeping | Stage::Serving => "keeping",
                };
                Status {
                    size: figures.state.size,
                    connected: figures.connected,
                    percent: if figures.state.stage == Stage::Empty { 0 } else { 100 },
                    phase: phase.into(),
                    waiting: figures.kept,
                    newest: figures.newest,
                    committed: figures.committed,
                    trouble: figures.trouble,
                    ..status
                }
            }
        }
    }

    /// Has what the guest wrote outlive the host, for who ends the process.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> Result<()> {
        match self.side() {
            Side::Primary(source) => source.sync(),
            Side::Keeper(_) => Ok(()),
        }
    }
}

fn serve(options: &Options, image: Arc<Image>, folder: Folder, peer: Option<Address>) -> Result<Arc<Source>> {
    let limits = Limits { buffer: options.buffer, patience: options.patience };
    let name = options.device.name();
    if let Some(above) = options.socket.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(above).map_err(io(above.display()))?;
    }
    let at = Address::Unix(options.socket.clone());
    let listener = Listener::bind(&at).map_err(io("listening"))?;
    let source = Arc::new(Source::new(image, folder, name, limits, peer));
    source_link::start(Arc::clone(&source)).map_err(io("a thread"))?;
    nbd::start(Arc::clone(&source), listener).map_err(io("a thread"))?;
    log::info!("{name}: {} is served at {at}", options.image.display());
    Ok(source)
}
