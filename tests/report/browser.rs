//! Debian's Chromium without a window, told what to do over its debugging pipe: JSON messages with a zero behind each.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// A browser with one page open.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    number: u64,
    session: Option<String>,
    /// Addresses that the page asked for.
    pub asked: Vec<String>,
    /// Exceptions, and what the browser complained of.
    pub complaints: Vec<String>,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    /// Starts it; `None` where there is none.
    pub fn start() -> Option<Browser> {
        Command::new("chromium").arg("--version").output().ok().filter(|output| output.status.success())?;
        let profile = TempDir::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh", "chromium"]);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]);
        command.args(["--no-first-run", "--disable-background-networking", "--window-size=1280,1000"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (asked, complaints) = (Vec::new(), Vec::new());
        let mut browser = Browser { child, to, from, number: 0, session: None, asked, complaints, _profile: profile };
        let target = browser.tell("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.tell("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.tell(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Says something, and waits for the answer; what happens meanwhile is noted.
    fn tell(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone().into();
        }
        self.to.write_all(&[message.to_string().as_bytes(), b"\0"].concat()).unwrap();
        loop {
            let heard = self.hear();
            if heard["id"] == self.number {
                assert!(heard["error"].is_null(), "{method}: {heard}");
                return heard["result"].clone();
            }
        }
    }

    fn hear(&mut self) -> Value {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).unwrap();
        assert_eq!(message.pop(), Some(0), "the browser has ended");
        let heard: Value = serde_json::from_slice(&message).unwrap();
        match heard["method"].as_str() {
            Some("Inspector.targetCrashed") => panic!("the page has crashed"),
            Some("Network.requestWillBeSent") => {
                self.asked.push(heard["params"]["request"]["url"].as_str().unwrap().to_owned());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(heard["params"].to_string()),
            Some("Log.entryAdded") if heard["params"]["entry"]["level"] != "verbose" => {
                self.complaints.push(heard["params"].to_string());
            }
            _ => {}
        }
        heard
    }

    /// Opens a file, and waits until it is loaded.
    pub fn open(&mut self, file: &Path) {
        self.asked.clear();
        self.complaints.clear();
        let name: String = file
            .display()
            .to_string()
            .bytes()
            .map(|byte| match byte {
                b'/' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
                byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        let gone = self.tell("Page.navigate", json!({"url": format!("file://{name}")}));
        assert!(gone["errorText"].is_null(), "{gone}");
        while self.hear()["method"] != "Page.loadEventFired" {}
        assert_eq!(self.run("document.documentElement.dataset.ready"), "true", "{:?}", self.complaints);
    }

    /// What an expression is.
    pub fn run(&mut self, expression: &str) -> Value {
        let result = self.tell("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// What a promise gives.
    pub fn wait_for(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.tell("Runtime.evaluate", asked);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Presses a key, where the focus is.
    pub fn press(&mut self, key: &str) {
        let mut down = json!({"type": "keyDown", "key": key});
        if key.chars().count() == 1 {
            down["text"] = key.into();
        }
        if key == "Enter" {
            down["text"] = "\r".into();
        }
        if let Some(code) = match key {
            "Enter" => Some(13),
            "Tab" => Some(9),
            " " => Some(32),
            _ => None,
        } {
            down["windowsVirtualKeyCode"] = code.into();
        }
        self.tell("Input.dispatchKeyEvent", down);
        self.tell("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
    }

    /// Types words, where the focus is.
    pub fn enter(&mut self, text: &str) {
        self.tell("Input.insertText", json!({"text": text}));
    }

    /// Has the system prefer `light` or `dark`.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.tell("Emulation.setEmulatedMedia", json!({"features": features}));
    }
}
