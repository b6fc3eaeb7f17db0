//! `reckon init`: a log has a folder of its own.

use crate::{good, history, reckon};

#[test]
fn a_log_is_not_made_within_the_folders_of_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let path = |below: &str| data.join(below).to_str().expect("a path").to_owned();
    let own = data.to_str().expect("a path");
    good(&["init", "--data", own, "--partitions", "1"]);
    std::os::unix::fs::symlink(&data, folder.path().join("other")).expect("a link");
    let linked = folder.path().join("other/log");
    for within in [
        path("log"),
        path("log/deeper"),
        path("store"),
        path("store/0"),
        path("keys"),
        path("replay/x"),
        linked.to_str().expect("a path").to_owned(),
    ] {
        for command in [
            vec!["init"],
            vec!["import", "events", Box::leak(history().into_boxed_str())],
        ] {
            let ran = reckon(&[&command[..], &["--data", &within]].concat());
            assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{within}");
            assert!(
                ran.err.contains(own) && ran.err.contains("a folder of its own"),
                "{}",
                ran.err
            );
        }
    }
    assert!(!data.join("log/log").exists() && !data.join("keys").exists());
    good(&["inspect", "--data", own]);
    // A folder of that name is anybody's where there is no log beside it.
    let elsewhere = folder.path().join("log");
    good(&[
        "init",
        "--data",
        elsewhere.to_str().expect("a path"),
        "--partitions",
        "1",
    ]);
}
