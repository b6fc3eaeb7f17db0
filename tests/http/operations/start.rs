//! What is refused at the start, in words that name the cure, with an exit code that tells settings from the rest.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::served::Served;

/// `reckon serve`, which ends by itself: its exit code and what it said.
fn serve(data: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .args(more)
        .output()
        .expect("reckon runs");
    assert!(output.stdout.is_empty(), "it says that it listens: {output:?}");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_folder_that_has_no_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, said) = serve(&folder.path().join("nothing"), &[]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("nothing/log") && said.contains("reckon init --data"),
        "{said}"
    );
}

#[test]
fn a_folder_that_another_process_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::ticks(&folder.path().join("data"), 1);
    let (code, said) = serve(&folder.path().join("data"), &[]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("locked by another process") && said.contains("--data"),
        "{said}"
    );
    assert_eq!(served.get("/healthz").status, 200);
    assert!(served.stop().success());
}

#[test]
fn an_address_that_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    assert!(Served::ticks(&data, 1).stop().success());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let set = format!("listen.address={address}");
    let output = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(["serve", "--set", &set, "--data"])
        .arg(&data)
        .output()
        .expect("reckon runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
    // The folder was let go: it can be served.
    assert!(Served::start(&data, &[]).stop().success());
}

#[test]
fn settings_that_do_not_hold() {
    let folder = tempfile::tempdir().expect("a folder");
    for (set, part) in [
        ("fold.commit_msec=5", "did you mean \"fold.commit_ms\""),
        ("telemetry.log_filter=reckon=loud", "telemetry.log_filter"),
    ] {
        let (code, said) = serve(folder.path(), &["--set", set]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn it_serves_though_nobody_reads_what_it_prints() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    assert!(Served::ticks(&data, 1).stop().success());
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let mut child = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(["serve", "--listen", &address, "--data"])
        .arg(&data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("reckon runs");
    drop(child.stdout.take());
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = Served::agent().get(format!("http://{address}/healthz")).call();
        if answer.is_ok_and(|answer| answer.status() == 200) {
            break;
        }
        assert_eq!(child.try_wait().expect("its state"), None, "it has ended");
        assert!(Instant::now() < until, "it doesn't answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
}
