//! The agent's end of the plugin's socket: one question a connection.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use machinery::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::{Answer, LARGEST, Question};
use crate::cri::status;
use crate::{Error, Result, SandboxNetwork};

/// Answers at `socket` until the tasks end.
pub(super) fn start(socket: &Path, network: Arc<dyn SandboxNetwork>, tasks: &Tasks) -> Result<()> {
    let failed = |error: std::io::Error| Error::system(format!("listening at {}", socket.display()), error);
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let (stop, inner) = (tasks.token(), tasks.clone());
    tasks.spawn("CNI", async move {
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "accepting a CNI plugin");
                        continue;
                    }
                },
                () = stop.cancelled() => return,
            };
            let (network, stop) = (network.clone(), stop.clone());
            inner.spawn("CNI question", async move {
                tokio::select! {
                    outcome = serve(stream, network.as_ref()) => if let Err(error) = outcome {
                        tracing::warn!(%error, "answering a CNI plugin");
                    },
                    () = stop.cancelled() => {}
                }
            });
        }
    });
    Ok(())
}

async fn serve(mut stream: UnixStream, network: &dyn SandboxNetwork) -> std::io::Result<()> {
    let mut text = Vec::new();
    (&mut stream).take(LARGEST).read_to_end(&mut text).await?;
    let answer = match serde_json::from_slice(&text) {
        Ok(question) => answer(question, network).await,
        Err(error) => Answer::Failed(format!("the plugin's question does not parse: {error}")),
    };
    stream.write_all(&serde_json::to_vec(&answer)?).await?;
    stream.shutdown().await
}

async fn answer(question: Question, network: &dyn SandboxNetwork) -> Answer {
    let outcome = match question {
        Question::Add { sandbox, namespace, annotations } => match status::sandbox_config(&annotations) {
            Some(config) => network.attach(&sandbox, &namespace, &config).await,
            None => Err(Error::Invalid(format!("sandbox {sandbox} was not made by this node's agent"))),
        },
        Question::Delete { sandbox } => network.detach(&sandbox).await.map(|()| Vec::new()),
        Question::Status => Ok(Vec::new()),
    };
    match outcome {
        Ok(addresses) => Answer::Done(addresses),
        Err(error) => Answer::Failed(error.to_string()),
    }
}
