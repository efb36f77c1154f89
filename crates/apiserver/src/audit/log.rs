//! The audit log file: one JSON object a line, written by one task, rotated by size.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use machinery::clock::SharedClock;
use machinery::tasks::Tasks;
use tokio::sync::mpsc;

/// How many events wait for the disk before requests do.
const WAITING: usize = 4096;

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The file; readable by its owner alone.
    pub path: PathBuf,
    /// How large it may grow, in bytes.
    pub max_bytes: u64,
    /// How many older files are kept.
    pub max_backups: usize,
}

struct Open {
    settings: LogFile,
    file: fs_err::File,
    size: u64,
    clock: SharedClock,
}

/// Starts the task that writes.
///
/// # Errors
/// When the file cannot be opened.
pub(super) fn start(
    settings: LogFile,
    clock: SharedClock,
    tasks: &Tasks,
) -> std::io::Result<mpsc::Sender<String>> {
    let (sender, mut receiver) = mpsc::channel::<String>(WAITING);
    let file = open(&settings.path)?;
    let size = file.metadata()?.len();
    let mut log = Some(Open { settings, file, size, clock });
    tasks.spawn("audit log", async move {
        let mut batch = Vec::new();
        while receiver.recv_many(&mut batch, 256).await > 0 {
            let (Some(mut own), lines) = (log.take(), std::mem::take(&mut batch)) else { return };
            let written = tokio::task::spawn_blocking(move || {
                let result = own.write(&lines);
                (own, result)
            });
            match written.await {
                Ok((own, result)) => {
                    if let Err(error) = result {
                        tracing::error!(%error, "writing the audit log");
                    }
                    log = Some(own);
                }
                Err(error) => tracing::error!(%error, "writing the audit log"),
            }
        }
    });
    Ok(sender)
}

fn open(path: &Path) -> std::io::Result<fs_err::File> {
    let mut options = fs_err::OpenOptions::new();
    options.create(true).append(true);
    fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

impl Open {
    fn write(&mut self, lines: &[String]) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
        let more = bytes.len() as u64;
        if self.size > 0 && self.size + more > self.settings.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(&bytes)?;
        self.size += more;
        Ok(())
    }

    /// Puts the present file aside under a name with the time, as upstream's does.
    fn rotate(&mut self) -> std::io::Result<()> {
        let path = &self.settings.path;
        let (stem, extension) = parts(path);
        let time = self.clock.now().strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        let mut aside = path.with_file_name(format!("{stem}-{time}{extension}"));
        let mut number = 0;
        while aside.exists() {
            number += 1;
            aside = path.with_file_name(format!("{stem}-{time}-{number}{extension}"));
        }
        fs_err::rename(path, &aside)?;
        self.file = open(path)?;
        self.size = 0;
        let mut old: Vec<PathBuf> = fs_err::read_dir(path.parent().unwrap_or(Path::new(".")))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|other| {
                let name = other.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                other != path && name.starts_with(&format!("{stem}-")) && name.ends_with(&extension)
            })
            .collect();
        old.sort();
        let surplus = old.len().saturating_sub(self.settings.max_backups);
        old.iter().take(surplus).try_for_each(fs_err::remove_file)
    }
}

fn parts(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).unwrap_or_default().to_owned();
    let extension = text(path.extension());
    (text(path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let settings = LogFile { path: path.clone(), max_bytes: 20, max_backups: 2 };
        let mut log =
            Open { file: open(&path).unwrap(), settings, size: 0, clock: machinery::clock::system() };
        for number in 0..6 {
            log.write(&[format!("line number {number}")]).unwrap();
        }
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "line number 5\n");
        let mut names: Vec<String> = fs_err::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs_err::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
