//! The README's commands work as pasted.

use std::path::Path;
use std::process::{Command, Stdio};

/// The first block of commands of a section.
fn block(section: &str) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("the README");
    let (_, rest) = readme.split_once(&format!("\n## {section}\n")).expect("the section");
    let (_, rest) = rest.split_once("```console\n").expect("a block");
    rest.split_once("\n```").expect("its end").0.to_owned()
}

/// What is typed, and what the first `curl` is shown to answer.
fn commands(block: &str) -> (String, String) {
    let (mut script, mut shown) = (String::new(), String::new());
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            script.push_str(command);
        } else if line.starts_with("    ") {
            script.push_str(line);
        } else {
            shown.push_str(line);
            continue;
        }
        script.push('\n');
    }
    (script, shown)
}

#[test]
fn the_serve_block_works_as_pasted() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port().to_string();
    drop(listener);
    let (script, shown) = commands(&block("Serve"));
    assert!(
        script.matches("curl").count() >= 3 && script.contains("reckon serve"),
        "{script}"
    );
    // Another may have the port, and a stream doesn't end by itself.
    let script = script
        .replace("7070", &port)
        .replace("curl -sN", "curl -sN --max-time 2");
    let script = format!("{script}\nkill $!\nwait\n");
    let binary = Path::new(env!("CARGO_BIN_EXE_reckon")).parent().expect("its folder");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").expect("a path"));
    let output = Command::new("sh")
        .arg("-c")
        .arg(&script)
        .env("PATH", path)
        .env("RECKON_TELEMETRY__LOG_FILTER", "error")
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout);
    // The first tick may come before the event or after it.
    let (before, after) = shown.split_once("\"2\"").expect("an offset");
    assert!(said.contains(before) && said.contains(after), "{shown} isn't in {said}");
    for part in [
        "\"quantity\":\"412\"",
        "\"reason\":\"completed\"",
        "retry: 1000",
        "data: {",
    ] {
        assert!(said.contains(part), "{part} isn't in {said}");
    }
}
