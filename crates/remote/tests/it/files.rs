//! Files: skipped, sent, taken up again, never half there.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use remote::{Error, File, Remote, Uploaded};

use crate::sshd::{Sshd, noise};

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// What is in a directory, with hidden files.
fn names(path: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_is_sent_once_and_then_left_alone() {
    let sshd = Sshd::start();
    let ssh = sshd.user("core");
    let path = sshd.at("new/below/it's a file");
    let file = || File::new(path.as_str(), "contents\n").mode(0o640).owner("core", "0");
    let first = ssh.upload(file()).await.unwrap();
    assert_eq!(first, Uploaded { changed: true, sent: 9, ..Uploaded::default() });
    let there = std::path::Path::new(&path);
    assert_eq!(std::fs::read_to_string(there).unwrap(), "contents\n");
    let before = std::fs::metadata(there).unwrap();
    assert_eq!((mode(there), before.uid(), before.gid()), (0o640, 61234, 0));
    assert_eq!(mode(there.parent().unwrap()), 0o755);

    assert_eq!(ssh.upload(file()).await.unwrap(), Uploaded::default());
    assert_eq!(std::fs::metadata(there).unwrap().ino(), before.ino());
    // Only the attributes differ: nothing crosses the link.
    std::fs::set_permissions(there, PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(ssh.upload(file()).await.unwrap(), Uploaded { changed: true, ..Uploaded::default() });
    assert_eq!((mode(there), std::fs::metadata(there).unwrap().ino()), (0o640, before.ino()));
    // Other contents of the same size, and of another.
    for contents in ["CONTENTS\n", "more contents\n", ""] {
        assert!(ssh.upload(File::new(path.as_str(), contents)).await.unwrap().changed);
        assert_eq!(std::fs::read_to_string(there).unwrap(), contents);
    }
    assert_eq!(mode(there), 0o600);
    assert_eq!(names(there.parent().unwrap()), ["it's a file"]);
}

#[tokio::test]
async fn a_noted_checksum_is_believed_for_the_file_that_it_was_noted_for_only() {
    let sshd = Sshd::start();
    let ssh = sshd.user("core");
    let path = sshd.path("bin/program");
    let file = || File::new(sshd.at("bin/program"), noise(2_000_000)).mode(0o755).noted();
    assert!(ssh.upload(file()).await.unwrap().changed);
    let note = sshd.path("bin/.program.sum");
    assert_eq!(mode(&note), 0o600);
    assert!(!ssh.upload(file()).await.unwrap().changed);
    // The note is what is read: another sum in it makes the file another one.
    let text = std::fs::read_to_string(&note).unwrap();
    std::fs::write(&note, format!("{}{}", "0".repeat(64), &text[64..])).unwrap();
    assert!(ssh.upload(file()).await.unwrap().changed);
    // Whoever writes to the file, copies over it or makes the note unreadable is found out.
    let whole = std::fs::read(&path).unwrap();
    let mut broken = whole.clone();
    broken[1_000_000] ^= 1;
    std::fs::write(&path, &broken).unwrap();
    assert!(ssh.upload(file()).await.unwrap().changed);
    assert!(std::fs::read(&path).unwrap() == whole);
    for text in ["", "\n", " \n", "nonsense"] {
        std::fs::write(&note, text).unwrap();
        assert!(!ssh.upload(file()).await.unwrap().changed, "{text:?}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(ssh.upload(file()).await.unwrap().changed);
    assert_eq!(names(&sshd.path("bin")), [".program.sum", "program"]);
}

#[tokio::test]
async fn many_files_go_in_one_exchange_and_a_second_time_none() {
    let sshd = Sshd::start();
    let ssh = sshd.user("core");
    let files = |change: Option<usize>| -> Vec<File> {
        (0..15)
            .map(|number| {
                let text = if change == Some(number) {
                    "changed".into()
                } else {
                    format!("{number}\n").repeat(number * 100)
                };
                File::new(sshd.at(&format!("etc/{}/{number}", number % 3)), text)
                    .mode(0o600 | (number as u32 % 3))
            })
            .collect()
    };
    let first = ssh.upload_many(files(None)).await.unwrap();
    assert!(first.iter().all(|uploaded| uploaded.changed) && first.len() == 15);
    assert_eq!(std::fs::read_to_string(sshd.path("etc/2/5")).unwrap(), "5\n".repeat(500));
    assert_eq!(mode(&sshd.path("etc/2/5")), 0o602);
    let again = ssh.upload_many(files(None)).await.unwrap();
    assert!(again.iter().all(|uploaded| !uploaded.changed));
    let changed = ssh.upload_many(files(Some(7))).await.unwrap();
    let which: Vec<usize> = (0..15).filter(|at| changed[*at].changed).collect();
    assert_eq!(which, [7]);
    assert_eq!(names(&sshd.path("etc/1")), ["1", "10", "13", "4", "7"]);
    assert!(ssh.upload_many(Vec::new()).await.unwrap().is_empty());
    let twice = vec![File::new("/x", "a"), File::new("/x", "b")];
    assert!(matches!(ssh.upload_many(twice).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn small_and_big_files_and_those_of_the_user_mix() {
    let sshd = Sshd::start();
    let ssh = sshd.user("core");
    let big = noise(3_000_000);
    let local = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(local.path(), &big).unwrap();
    let files = || {
        vec![
            File::new(sshd.at("root/small"), "small"),
            File::new(sshd.at("root/big"), local.path()).mode(0o755),
            File::new(sshd.at("home/mine"), "mine").as_user(),
            File::new(sshd.at("root/text"), "a line of text\n".repeat(200_000)),
        ]
    };
    let done = ssh.upload_many(files()).await.unwrap();
    assert!(done.iter().all(|uploaded| uploaded.changed));
    assert_eq!((done[1].compressed, done[1].sent), (false, 3_000_000));
    assert!(done[3].compressed && done[3].sent < 100_000, "{:?}", done[3]);
    assert!(std::fs::read(sshd.path("root/big")).unwrap() == big);
    assert_eq!(mode(&sshd.path("root/big")), 0o755);
    assert_eq!(std::fs::metadata(sshd.path("home/mine")).unwrap().uid(), 61234);
    assert_eq!(std::fs::metadata(sshd.path("root/small")).unwrap().uid(), 0);
    assert!(ssh.upload_many(files()).await.unwrap().iter().all(|uploaded| !uploaded.changed));
    assert_eq!(names(&sshd.path("root")), ["big", "small", "text"]);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let sshd = Arc::new(Sshd::start());
    let ssh = sshd.root();
    let bytes = noise(48 << 20);
    let told = Arc::new(AtomicU64::new(0));
    let file = File::new(sshd.at("big"), bytes.clone()).mode(0o755).progress({
        let (sshd, told, cut) = (sshd.clone(), told.clone(), AtomicBool::new(false));
        move |done, total| {
            assert!(done <= total && total == 48 << 20);
            told.store(done, Ordering::SeqCst);
            if done >= total / 2 && !cut.swap(true, Ordering::SeqCst) {
                assert!(sshd.cut() > 0);
            }
        }
    });
    let uploaded = ssh.upload(file).await.unwrap();
    assert!(uploaded.changed && uploaded.resumed >= 1 << 20, "{uploaded:?}");
    assert_eq!(told.load(Ordering::SeqCst), 48 << 20);
    assert!(std::fs::read(sshd.path("big")).unwrap() == bytes);
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 2);
    assert!(!names(sshd.path("big").parent().unwrap()).iter().any(|name| name.ends_with(".part")));
}

#[tokio::test]
async fn what_an_earlier_process_left_is_taken_up_or_thrown_away() {
    let sshd = Sshd::start();
    let ssh = sshd.root();
    let bytes = noise(5 << 20);
    let sum = {
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let part = sshd.path(&format!(".big.{sum}.part"));
    std::fs::write(&part, &bytes[..(3 << 20) + 17]).unwrap();
    let uploaded = ssh.upload(File::new(sshd.at("big"), bytes.clone())).await.unwrap();
    assert_eq!((uploaded.resumed, uploaded.sent), (3 << 20, 2 << 20));
    // One that has other bytes costs time, and nothing else.
    std::fs::remove_file(sshd.path("big")).unwrap();
    std::fs::write(&part, vec![1; 3 << 20]).unwrap();
    let uploaded = ssh.upload(File::new(sshd.at("big"), bytes.clone())).await.unwrap();
    assert_eq!((uploaded.resumed, uploaded.sent), (0, 7 << 20));
    assert!(std::fs::read(sshd.path("big")).unwrap() == bytes);
    // One that leads elsewhere is not followed.
    std::fs::remove_file(sshd.path("big")).unwrap();
    std::fs::write(sshd.path("victim"), "untouched").unwrap();
    std::os::unix::fs::symlink(sshd.path("victim"), &part).unwrap();
    ssh.upload(File::new(sshd.at("big"), bytes.clone())).await.unwrap();
    assert_eq!(std::fs::read_to_string(sshd.path("victim")).unwrap(), "untouched");
    assert!(std::fs::symlink_metadata(sshd.path("big")).unwrap().is_file());
}

#[tokio::test]
async fn what_cannot_be_written_leaves_the_old_file_and_says_why() {
    let sshd = Sshd::start();
    let ssh = sshd.root();
    // Once it answers, its mounts are there.
    ssh.connect(std::time::Duration::from_secs(20)).await.unwrap();
    let small = sshd.inside("small");
    std::fs::write(small.join("file"), "old").unwrap();
    for bytes in [noise(16 << 20), b"text ".repeat(4 << 20)] {
        let error = ssh.upload(File::new(sshd.at("small/file"), bytes)).await.unwrap_err();
        assert!(matches!(&error, Error::Full { .. }), "{error}");
        assert!(error.to_string().contains("No space left on device"), "{error}");
        assert_eq!(std::fs::read_to_string(small.join("file")).unwrap(), "old");
        // The space is free again.
        assert_eq!(names(&small), ["file"]);
    }
    for (path, says) in
        [("/usr/bin/file-of-a-test", "Read-only file system"), (sshd.at("small").as_str(), "is a directory")]
    {
        let error = ssh.upload(File::new(path, "x")).await.unwrap_err();
        assert!(matches!(&error, Error::Upload { why, .. } if why.contains(says)), "{error}");
    }
    let error = ssh.upload(File::new(sshd.at("x"), "x").owner("nobody-at-all", "root")).await.unwrap_err();
    assert!(matches!(&error, Error::Upload { why, .. } if why.contains("invalid user")), "{error}");
    let error = ssh.upload(File::new(sshd.at("x"), std::path::Path::new("/nonexistent"))).await.unwrap_err();
    assert!(matches!(&error, Error::Local { .. }), "{error}");
    let error = sshd.user("plain").upload(File::new(sshd.at("x"), "x")).await.unwrap_err();
    assert!(matches!(&error, Error::Root { .. }), "{error}");
    assert!(!sshd.path("x").exists());
    assert!(!names(sshd.path("x").parent().unwrap()).iter().any(|name| name.ends_with(".part")));
}

#[tokio::test]
async fn reading_is_bounded_and_knows_what_is_missing() {
    let sshd = Sshd::start();
    let ssh = sshd.user("core");
    let bytes = noise(100_000);
    ssh.upload(File::new(sshd.at("secret"), bytes.clone())).await.unwrap();
    assert_eq!(ssh.read(&sshd.at("secret"), 100_000).await.unwrap().unwrap(), bytes);
    assert!(matches!(ssh.read(&sshd.at("secret"), 99_999).await, Err(Error::TooBig { .. })));
    assert_eq!(ssh.read(&sshd.at("nothing"), 10).await.unwrap(), None);
    assert!(matches!(ssh.read("relative", 10).await, Err(Error::Invalid(_))));
    assert!(matches!(sshd.user("plain").read("/etc/passwd", 10_000).await, Err(Error::Root { .. })));
    assert!(ssh.read(&sshd.at("home"), 10).await.is_err());
}

/// The arguments of every process on this machine, which is where the daemon's are, too.
fn arguments() -> String {
    let mut all = String::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        if let Ok(arguments) = std::fs::read(process.path().join("cmdline")) {
            all.push_str(&String::from_utf8_lossy(&arguments));
        }
    }
    all
}

#[tokio::test]
async fn contents_are_in_no_argument_list() {
    let sshd = Sshd::start();
    let ssh = sshd.user("core");
    let secret = format!("secret-{}", std::process::id()).repeat(500_000);
    let seen = Arc::new(parking_lot::Mutex::new(String::new()));
    let file = File::new(sshd.at("token"), secret.clone()).progress({
        let (seen, path) = (seen.clone(), sshd.path(""));
        move |_, _| {
            // In the middle, when the programs that write it run; the part file is nobody else's to read.
            let mut seen = seen.lock();
            if seen.is_empty() {
                *seen = arguments();
                for part in names(&path).iter().filter(|name| name.ends_with(".part")) {
                    assert_eq!(mode(&path.join(part)), 0o600);
                }
            }
        }
    });
    ssh.upload(file.mode(0o644)).await.unwrap();
    let seen = seen.lock();
    assert!(seen.contains("Puts files in place"), "the shell was not seen: {seen}");
    assert!(!seen.contains(&secret[..10]));
}

/// Every shell that may be the far side's /bin/sh.
#[test]
fn the_script_is_understood_by_other_shells() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ssh/put/put.sh");
    for shell in ["dash", "bash", "/bin/busybox sh"] {
        let mut words = shell.split(' ');
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        let sum = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";
        let told = format!(
            "2\n{at}/a b/x\n{sum}\n3\n640\n-\n{at}/a b/.x.part\ntrue\n{at}/y\n{sum}\n3\n600\n0:0\n{at}/.y.part\nfalse\nput 0\nhi\nput 1\nhi\nend\n"
        );
        let mut child = std::process::Command::new(words.next().unwrap())
            .args(words)
            .arg(script)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), told.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.ends_with("end\ndone\n"), "{shell}: {said}");
        assert_eq!(std::fs::read_to_string(directory.path().join("a b/x")).unwrap(), "hi\n");
        assert_eq!(mode(&directory.path().join("a b/x")), 0o640);
        assert_eq!(names(directory.path()), ["a b", "y"]);
        assert_eq!(names(&directory.path().join("a b")), [".x.sum", "x"]);
    }
}
