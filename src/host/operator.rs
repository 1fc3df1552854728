//! The control socket and the signals: one for a process, whichever driver is in charge of the domain.

use crate::control::status::Role;
use crate::control::{Reply, Request, Server, Status};
use crate::replicate::Handle;
use crate::replicate::signals::Signals;
use crate::transport::Cancel;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Who answers the operator now.
#[derive(Debug, Clone)]
pub struct Desk(Arc<Mutex<Clerk>>);

#[derive(Debug)]
struct Clerk {
    domain: String,
    driver: Option<Handle>,
    /// The last word of a driver that has ended.
    last: Option<Status>,
    /// Wakes a host that waits for a primary.
    waiting: Cancel,
    terminated: bool,
}

/// The way in for the operator, while this lives.
#[derive(Debug)]
pub struct Office {
    _server: Option<Server>,
    _signals: Signals,
}

impl Desk {
    /// Nobody is in charge yet.
    ///
    /// # Errors
    /// The system's.
    pub fn new(domain: &str) -> io::Result<Self> {
        let waiting = Cancel::new()?;
        Ok(Desk(Arc::new(Mutex::new(Clerk {
            domain: domain.to_owned(),
            driver: None,
            last: None,
            waiting,
            terminated: false,
        }))))
    }

    /// Opens the control socket, unless there is to be none, and takes SIGTERM and SIGINT.
    ///
    /// # Errors
    /// The socket is in use by another process, or cannot be made.
    pub fn open(&self, socket: Option<&Path>, ignore_hup: bool) -> io::Result<Office> {
        let desk = self.clone();
        let server = socket
            .map(|path| {
                Server::bind(path, Arc::new(move |request| desk.request(request))).map_err(|error| {
                    io::Error::new(error.kind(), format!("control socket {}: {error}", path.display()))
                })
            })
            .transpose()?;
        let desk = self.clone();
        let signals = Signals::install(
            move |signal| {
                log::warn!("{signal}: ending");
                desk.terminate();
            },
            ignore_hup,
        )?;
        Ok(Office { _server: server, _signals: signals })
    }

    /// From now on this driver is in charge.
    pub fn assign(&self, driver: Handle) {
        let mut clerk = self.clerk();
        clerk.driver = Some(driver.clone());
        clerk.last = None;
        let terminated = clerk.terminated;
        drop(clerk);
        if terminated {
            // The signal came when nobody was in charge.
            driver.terminate();
        }
    }

    /// The driver has ended; this is how, for who asks from now on.
    pub fn retire(&self, last: Option<Status>) {
        let mut clerk = self.clerk();
        clerk.driver = None;
        clerk.last = last;
    }

    /// Cancelled when this process is told to end while nobody is in charge.
    pub fn waiting(&self) -> Cancel {
        self.clerk().waiting.clone()
    }

    /// Whether this process was told to end.
    pub fn is_terminated(&self) -> bool {
        self.clerk().terminated
    }

    fn clerk(&self) -> std::sync::MutexGuard<'_, Clerk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whoever is in charge.
    pub fn request(&self, request: Request) -> Reply {
        let clerk = self.clerk();
        let Some(driver) = clerk.driver.clone() else {
            let waiting = || Status {
                domain: clerk.domain.clone(),
                role: Role::Secondary,
                phase: "waiting".into(),
                ..Status::default()
            };
            return match request {
                Request::Status | Request::Watch { .. } => Reply::status(clerk.last.clone().unwrap_or_else(waiting)),
                _ => Reply::error("cannot be done while no domain is protected or received"),
            };
        };
        drop(clerk);
        driver.request(request)
    }

    fn terminate(&self) {
        let mut clerk = self.clerk();
        clerk.terminated = true;
        clerk.waiting.cancel();
        let driver = clerk.driver.clone();
        drop(clerk);
        if let Some(driver) = driver {
            driver.terminate();
        }
    }
}
