//! A real `reckon serve`, and the little that a client needs.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A serving process; killed when it is let go.
pub struct Served {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub base: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect(&self.text)
    }

    /// A header.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// Runs a command of the binary to its end.
pub fn reckon(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(args)
        .output()
        .expect("reckon runs");
    assert!(
        output.status.success(),
        "reckon {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Served {
    /// Makes a log whose clock comes from ticks, and serves it.
    pub fn ticks(data: &Path, partitions: u32) -> Self {
        let partitions = partitions.to_string();
        let data_text = data.to_str().expect("a path");
        reckon(&[
            "init",
            "--data",
            data_text,
            "--partitions",
            &partitions,
            "--clock",
            "ticks",
        ]);
        Self::start(data, &[])
    }

    /// Serves a data folder on a free port of the loopback address.
    pub fn start(data: &Path, more: &[&str]) -> Self {
        Self::start_logging(data, more, Stdio::inherit())
    }

    /// The same, with its log lines to another place.
    pub fn start_logging(data: &Path, more: &[&str], lines: Stdio) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_reckon"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(lines)
            .spawn()
            .expect("reckon serve starts");
        let mut printed = BufReader::new(child.stdout.take().expect("its output")).lines();
        let base = loop {
            let line = printed.next().expect("serve says where it listens").expect("a line");
            if let Some(base) = line.strip_prefix("listening on ") {
                break base.to_owned();
            }
        };
        // Whatever else it prints must not fill the pipe.
        std::thread::spawn(move || printed.for_each(drop));
        Self { child, base }
    }

    /// A client that takes every status as an answer, and doesn't go where it is sent.
    pub fn agent() -> ureq::Agent {
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into()
    }

    fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
        let mut response = response.expect("an answer");
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response
                .body_mut()
                .with_config()
                .limit(1 << 30)
                .read_to_string()
                .expect("a body"),
        }
    }

    /// GET without a token.
    pub fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    /// GET with headers.
    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Self::agent().get(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::answer(request.call())
    }

    /// HEAD with headers.
    pub fn head_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Self::agent().head(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::answer(request.call())
    }

    /// POST with headers, a content type among them.
    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        let mut request = Self::agent().post(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::answer(request.send(body.as_ref()))
    }

    /// POST without a token.
    pub fn post(&self, path: &str, content_type: &str, body: impl AsRef<[u8]>) -> Answer {
        self.post_with(path, &[("content-type", content_type)], body)
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it hasn't ended.
    #[allow(dead_code, reason = "not every test that starts one asks")]
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, `TERM` for one.
    pub fn signal(&self, name: &str) {
        let told = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status();
        assert!(told.expect("kill runs").success());
    }

    /// Waits until it ends by itself, and says how.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("it ends")
    }

    /// SIGTERM, and how it ended.
    pub fn stop(self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}
