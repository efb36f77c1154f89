//! Starts an API server on loopback, for trials with real clients: no nodes, no controllers.
//!
//!     cargo run -p apiserver --example serve -- PORT KUBECONFIG [DATA_DIRECTORY]

#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopback::Outcome;
use machinery::clock;
use store::{EmbeddedStore, MemoryStore, Options, Store};

mod loopback;

#[tokio::main(worker_threads = 2)]
async fn main() -> Outcome {
    machinery::log::init("info");
    let arguments: Vec<String> = std::env::args().collect();
    let [_, port, kubeconfig, data @ ..] = arguments.as_slice() else {
        return Err("usage: serve PORT KUBECONFIG [DATA_DIRECTORY]".into());
    };
    let port: u16 = port.parse()?;
    let store: Arc<dyn Store> = match data {
        [directory] => {
            Arc::new(EmbeddedStore::open(Path::new(directory), Options::default(), clock::system())?)
        }
        _ => Arc::new(MemoryStore::new()),
    };
    let directory = tempfile::tempdir()?;
    loopback::certificates(directory.path())?;
    let ready = || {
        let file = |name: &str| std::fs::read(directory.path().join(name)).map(|text| STANDARD.encode(text));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: trial\ncontexts:\n- name: trial\n  context: {{cluster: \
             trial, user: admin}}\nclusters:\n- name: trial\n  cluster: {{server: 'https://127.0.0.1:{port}', \
             certificate-authority-data: {}}}\nusers:\n- name: admin\n  user: {{client-certificate-data: {}, \
             client-key-data: {}}}\n",
            file("ca.pem")?,
            file("admin.pem")?,
            file("admin.key")?
        );
        std::fs::write(kubeconfig, text)?;
        println!("KUBECONFIG={kubeconfig} kubectl version");
        Ok(())
    };
    loopback::serve(port, directory.path(), store, ready).await
}
