//! Compiles `proto/` to Rust with protox, so that no `protoc` is needed to build.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "reckon/v1/events.proto",
        "reckon/v1/control.proto",
        "reckon/v1/outputs.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // BTreeMap: the same message encodes to the same bytes, whatever the process.
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
