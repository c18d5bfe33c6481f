//! Two kinds of generated source: the gRPC service of the examples, described here instead of in a `.proto` file so that
//! no `protoc` is needed; and the programs of `tokio_style/` with their import changed back to `tokio::net`.

use std::path::PathBuf;
use std::{env, fs};

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    words_service();
    kernel_twins();
}

fn words_service() {
    println!("cargo::rerun-if-changed=build.rs");
    let method = |name: &str, route: &str, input: &str, output: &str| {
        let method = Method::builder().name(name).route_name(route).codec_path("tonic_prost::ProstCodec");
        method.input_type(format!("super::{input}")).output_type(format!("super::{output}"))
    };
    let service = Service::builder()
        .package("rawtcp.examples")
        .name("Words")
        .comment("Things done to words.")
        .method(method("upper", "Upper", "Text", "Text").comment("In capital letters.").build())
        .method(method("count", "Count", "Number", "Number").comment("From 1 up.").server_streaming().build())
        .method(method("longest", "Longest", "Text", "Text").comment("The first of them.").client_streaming().build())
        .method(
            method("echo", "Echo", "Text", "Text").comment("The same.").client_streaming().server_streaming().build(),
        )
        .build();
    Builder::new().compile(&[service]);
}

/// What our programs say, and what those for the kernel's TCP say instead.
const IMPORT: [&str; 2] = ["use rawtcp::net::", "use tokio::net::"];

fn kernel_twins() {
    println!("cargo::rerun-if-changed=tokio_style/programs");
    let to = PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("kernel");
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir("tokio_style/programs").unwrap() {
        let path = entry.unwrap().path();
        let ours = fs::read_to_string(&path).unwrap();
        let (imports, named) = (ours.matches(IMPORT[0]).count(), ours.matches("rawtcp").count());
        assert_eq!((imports, named), (1, 1), "{}: one import is ours, and nothing else", path.display());
        // `include!` takes no comments on the file as a whole.
        let twin = ours.replace(IMPORT[0], IMPORT[1]).replace("//!", "//");
        fs::write(to.join(path.file_name().unwrap()), twin).unwrap();
    }
}
