//! The control socket and the signals: one for a process, whichever driver is in charge of the domain.

use crate::control::status::Role;
use crate::control::{Reply, Request, Server, Status};
use crate::replicate::signals::Signals;
use crate::replicate::{Answer, Command, Handle, Refused};
use crate::transport::Cancel;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the last word of a driver that has ended may take.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Who answers the operator now.
#[derive(Debug, Clone)]
pub struct Desk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clerk: Mutex<Clerk>,
    /// Told when a driver takes charge or leaves.
    changed: Condvar,
    /// While the office is open.
    server: Mutex<Option<Server>>,
}

#[derive(Debug)]
struct Clerk {
    domain: String,
    simulated: bool,
    driver: Option<Handle>,
    /// Who answers for a replica that was denied.
    custody: Option<Handle>,
    /// How often the charge has changed hands.
    changes: u64,
    /// The last word of a driver that has ended.
    last: Option<Status>,
    /// Wakes a host that waits for a primary.
    waiting: Cancel,
    terminated: bool,
}

/// The way in for the operator, while this lives.
#[derive(Debug)]
pub struct Office {
    desk: Desk,
    _signals: Signals,
}

impl Drop for Office {
    fn drop(&mut self) {
        // Its server answers by the desk, which it would keep.
        drop(self.desk.server().take());
    }
}

impl Desk {
    /// Nobody is in charge yet. `simulated`: its guest is no domain, and each status says so.
    ///
    /// # Errors
    /// The system's.
    pub fn new(domain: &str, simulated: bool) -> io::Result<Self> {
        let waiting = Cancel::new()?;
        let clerk = Clerk {
            domain: domain.to_owned(),
            simulated,
            driver: None,
            custody: None,
            changes: 0,
            last: None,
            waiting,
            terminated: false,
        };
        Ok(Desk(Arc::new(Shared { clerk: Mutex::new(clerk), changed: Condvar::new(), server: Mutex::default() })))
    }

    /// Opens the control socket, unless there is to be none, and takes SIGTERM and SIGINT.
    ///
    /// # Errors
    /// The socket is in use by another process, or cannot be made.
    pub fn open(&self, socket: Option<&Path>, ignore_hup: bool) -> io::Result<Office> {
        if let Some(path) = socket {
            self.listen(path)?;
        }
        let desk = self.clone();
        let signals = Signals::install(
            move |signal| {
                log::warn!("{signal}: ending");
                desk.terminate();
            },
            ignore_hup,
        )?;
        Ok(Office { desk: self.clone(), _signals: signals })
    }

    /// Opens the control socket.
    ///
    /// # Errors
    /// As [`Desk::open`].
    pub fn listen(&self, socket: &Path) -> io::Result<()> {
        let desk = self.clone();
        let server = Server::bind(socket, Arc::new(move |request| desk.request(request)))
            .map_err(|error| io::Error::new(error.kind(), format!("control socket {}: {error}", socket.display())))?;
        *self.server() = Some(server);
        Ok(())
    }

    fn server(&self) -> std::sync::MutexGuard<'_, Option<Server>> {
        self.0.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this driver is in charge.
    pub fn assign(&self, driver: Handle) {
        let terminated = self.change(Some(driver.clone()), None);
        if terminated {
            // The signal came when nobody was in charge.
            driver.terminate();
        }
    }

    /// The driver has ended; this is how, for who asks from now on.
    pub fn retire(&self, last: Option<Status>) {
        self.change(None, last);
    }

    /// From now on this answers for a replica that was denied, whatever driver is in charge besides; none when there is no replica any
    /// more.
    pub fn keep(&self, custody: Option<Handle>) {
        let mut clerk = self.clerk();
        clerk.custody.clone_from(&custody);
        clerk.changes += 1;
        self.0.changed.notify_all();
        let terminated = clerk.terminated;
        drop(clerk);
        if let (true, Some(custody)) = (terminated, custody) {
            custody.terminate();
        }
    }

    /// Ends a driver whose primary has not said who it is.
    pub fn unmet(&self) {
        let driver = self.clerk().driver.clone();
        if let Some(driver) = driver {
            driver.unmet();
        }
    }

    /// Wakes who waits by [`Desk::waiting`], for once.
    pub fn wake(&self) {
        let mut clerk = self.clerk();
        clerk.waiting.cancel();
        // Without a descriptor for another one, whoever waits next is awake at once, and no worse off.
        if let (false, Ok(waiting)) = (clerk.terminated, Cancel::new()) {
            clerk.waiting = waiting;
        }
    }

    /// Gives whether this process was told to end.
    fn change(&self, driver: Option<Handle>, last: Option<Status>) -> bool {
        let mut clerk = self.clerk();
        (clerk.driver, clerk.last) = (driver, last);
        clerk.changes += 1;
        self.0.changed.notify_all();
        clerk.terminated
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
        self.0.clerk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whoever is in charge. A driver that has ended is about to leave its last word, which is waited for.
    pub fn request(&self, request: Request) -> Reply {
        let mut reply = self.answer(request);
        if let Some(status) = &mut reply.status {
            status.simulated = self.clerk().simulated;
        }
        reply
    }

    fn answer(&self, request: Request) -> Reply {
        let custody = self.clerk().custody.clone();
        let Some(custody) = custody else { return self.ask_driver(request) };
        let idle = self.clerk().driver.is_none();
        let for_it = idle || matches!(request, Request::Drop | Request::FailOver { generation: Some(_), .. });
        if for_it && let Some(answer) = custody.ask(request.clone().into()) {
            return answer.into();
        }
        let mut reply = self.ask_driver(request);
        if let Some(status) = &mut reply.status
            && let Some(Ok(Answer::Status(kept))) = custody.ask(Command::Status)
        {
            status.kept = kept.kept;
        }
        reply
    }

    fn ask_driver(&self, request: Request) -> Reply {
        let mut clerk = self.clerk();
        while let Some(driver) = clerk.driver.clone() {
            let asked = clerk.changes;
            drop(clerk);
            if let Some(answer) = driver.ask(request.clone().into()) {
                return answer.into();
            }
            clerk = self.clerk();
            let still = |clerk: &mut Clerk| clerk.changes == asked;
            let waited = self.0.changed.wait_timeout_while(clerk, LAST_WORD, still);
            let (now, time) = waited.unwrap_or_else(PoisonError::into_inner);
            if time.timed_out() {
                return Err(Refused::Ended).into();
            }
            clerk = now;
        }
        match request {
            Request::Status | Request::Watch { .. } => Reply::status(clerk.last.clone().unwrap_or_else(|| Status {
                domain: clerk.domain.clone(),
                role: Role::Secondary,
                phase: "waiting".into(),
                ..Status::default()
            })),
            _ => Err(Refused::Idle).into(),
        }
    }

    fn terminate(&self) {
        let mut clerk = self.clerk();
        clerk.terminated = true;
        clerk.waiting.cancel();
        let told = [clerk.driver.clone(), clerk.custody.clone()];
        drop(clerk);
        for handle in told.into_iter().flatten() {
            handle.terminate();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    /// What who asks a driver that has ended gets, when `next` is done once it has been asked.
    fn reply_after(request: Request, next: impl FnOnce(&Desk)) -> Reply {
        let desk = Desk::new("web", false).unwrap();
        let (told, asked) = channel();
        desk.assign(Handle::new(move |_| {
            told.send(()).unwrap();
            false
        }));
        thread::scope(|scope| {
            let asking = scope.spawn(|| desk.request(request));
            asked.recv().unwrap();
            next(&desk);
            asking.join().unwrap()
        })
    }

    #[test]
    fn who_asks_a_driver_that_has_just_ended_gets_its_last_word() {
        let last = Status { phase: "switched over".into(), ..Status::default() };
        let reply = reply_after(Request::Status, |desk| desk.retire(Some(last)));
        assert_eq!(reply.status.unwrap().phase, "switched over");
    }

    #[test]
    fn who_asks_between_two_drivers_asks_the_next() {
        let next = |ask| {
            if let crate::replicate::Ask::Command(_, answer) = ask {
                answer.send(Err(Refused::Phase("the next one"))).unwrap();
            }
            true
        };
        let reply = reply_after(Request::SwitchOver, |desk| desk.assign(Handle::new(next)));
        assert_eq!(reply.error.as_deref(), Some("cannot be done while the next one"));
    }
}
