//! Connections through the machine.

use remote::{Error, Remote};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::sshd::{Sshd, noise};

#[tokio::test]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let sshd = Sshd::start();
    let ssh = sshd.root();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = noise(5_000_000);
    let served = tokio::spawn({
        let sent = sent.clone();
        async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // It answers before it has read anything: what is not read there must not hold what is written here.
            let (mut from, mut to) = stream.split();
            let mut heard = Vec::new();
            let (said, got) = tokio::join!(
                async {
                    to.write_all(&sent).await.unwrap();
                    to.shutdown().await
                },
                from.read_to_end(&mut heard)
            );
            said.unwrap();
            got.unwrap();
            heard
        }
    });
    let mut tunnel = ssh.forward("127.0.0.1", port).await.unwrap();
    tunnel.write_all(&sent).await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut heard = Vec::new();
    tunnel.read_to_end(&mut heard).await.unwrap();
    assert!(heard == sent, "{} bytes came back", heard.len());
    assert!(served.await.unwrap() == sent);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_refused_and_the_connection_goes_on() {
    let sshd = Sshd::start();
    let ssh = sshd.root();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = ssh.forward("127.0.0.1", port).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(ssh.run(remote::Command::new(&["true"])).await.unwrap().status.success());
}
