//! Images from files and from servers that misbehave; no QEMU and no root needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::Mutex;
use qemu::image::{Checksum, Fetched, Image, Progress, Signature, Source, Transport, fetch};
use qemu::overlay::Format;
use ring::digest::{SHA256, SHA512, digest};

use crate::web::{Fault, Web};

/// A raw disk, different at every byte of note.
fn disk() -> Vec<u8> {
    (0..300_000u32).flat_map(|number| number.to_le_bytes()).take(1024 * 1024).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> Option<Checksum> {
    Some(hex(digest(&SHA256, bytes).as_ref()).parse().unwrap())
}

fn image(source: &str, checksum: Option<Checksum>) -> Image {
    Image { source: source.parse().unwrap(), checksum, signature: None }
}

async fn get(image: &Image, cache: &Path) -> Result<Fetched, String> {
    fetch(image, cache, &Transport::default(), &|_| {}).await.map_err(|error| error.to_string())
}

/// Every file in the cache but locks.
fn files(cache: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for part in ["content", "partial", "sources"] {
        for entry in std::fs::read_dir(cache.join(part)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.ends_with(".lock") {
                found.push(format!("{part}/{name}"));
            }
        }
    }
    found
}

#[tokio::test]
async fn an_image_is_fetched_once_and_kept_by_its_content() {
    let cache = tempfile::tempdir().unwrap();
    let web = Web::new(&disk(), Fault::None).await;
    let image = image(&web.url(), sha256(&disk()));
    let seen = Mutex::new(Vec::new());
    let first =
        fetch(&image, cache.path(), &Transport::default(), &|step| seen.lock().push(step)).await.unwrap();
    assert_eq!((first.format, first.size, first.cached), (Format::Raw, 1 << 20, false));
    assert_eq!(std::fs::read(&first.path).unwrap(), disk());
    assert!(std::fs::metadata(&first.path).unwrap().permissions().readonly());
    let seen = seen.into_inner();
    assert!(seen.contains(&Progress::Downloading { done: 1 << 20, total: Some(1 << 20) }), "{seen:?}");
    assert!(
        seen.contains(&Progress::Verifying) && matches!(seen.last(), Some(Progress::Unpacking { .. })),
        "{seen:?}"
    );
    let second = get(&image, cache.path()).await.unwrap();
    assert_eq!(second, Fetched { cached: true, ..first });
    assert_eq!(web.requests(), 1);
    // Another server with the same file is not even asked.
    let mirror = Image { source: "http://127.0.0.1:9/elsewhere".parse().unwrap(), ..image };
    assert_eq!(get(&mirror, cache.path()).await.unwrap(), second);
    assert_eq!(files(cache.path()).len(), 2, "{:?}", files(cache.path()));
    // Somebody who cut it off does not break what comes after.
    std::fs::remove_file(&second.path).unwrap();
    assert!(
        !get(&Image { source: web.url().parse().unwrap(), ..mirror }, cache.path()).await.unwrap().cached
    );
}

#[tokio::test]
async fn two_runs_at_once_fetch_once() {
    let cache = tempfile::tempdir().unwrap();
    let web = Web::new(&disk(), Fault::None).await;
    let image = image(&web.url(), sha256(&disk()));
    let runs = [(); 4].map(|()| get(&image, cache.path()));
    let found = futures::future::join_all(runs).await;
    assert!(found.iter().all(Result::is_ok), "{found:?}");
    assert_eq!(found.iter().filter(|found| !found.as_ref().unwrap().cached).count(), 1);
    assert_eq!(web.requests(), 1);
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut_off() {
    let cache = tempfile::tempdir().unwrap();
    let web = Web::new(&disk(), Fault::Cut(300_000)).await;
    let found = get(&image(&web.url(), sha256(&disk())), cache.path()).await.unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), disk());
    assert_eq!((web.requests(), web.sent()), (4, 1 << 20));
}

#[tokio::test]
async fn the_next_run_goes_on_unless_the_file_is_another_one_by_now() {
    for (newer, sent) in [(false, 1 << 20), (true, (1 << 20) + 300_000)] {
        let cache = tempfile::tempdir().unwrap();
        let web = Web::new(&disk(), Fault::Cut(300_000)).await;
        let mut disk = disk();
        if newer {
            disk[0] = 1;
        }
        let image = image(&web.url(), sha256(&disk));
        // A run that is broken off after its first bytes, as by Ctrl-C.
        let (told, heard) = tokio::sync::watch::channel(0);
        let progress = move |step| {
            if let Progress::Downloading { done, .. } = step {
                told.send_replace(done);
            }
        };
        {
            let transport = Transport::default();
            let run = fetch(&image, cache.path(), &transport, &progress);
            tokio::pin!(run);
            let mut heard = heard.clone();
            tokio::select! {
                _ = &mut run => unreachable!("it is cut off"),
                _ = heard.wait_for(|done| *done == 300_000) => {}
            }
            // Until what it has is on the disk.
            let partial = async || {
                while !files(cache.path()).iter().any(|name| {
                    name.starts_with("partial/")
                        && std::fs::metadata(cache.path().join(name)).is_ok_and(|file| file.len() == 300_000)
                }) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                _ = &mut run => unreachable!("it is cut off"),
                () = partial() => {}
            }
        }
        let before = web.sent();
        assert!(before >= 300_000);
        web.fault(Fault::None);
        if newer {
            web.publish(&disk, "\"two\"");
        }
        let found = get(&image, cache.path()).await.unwrap();
        assert!(std::fs::read(found.path).unwrap() == disk);
        assert_eq!(web.sent(), sent);
    }
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_for_everything() {
    let cache = tempfile::tempdir().unwrap();
    let web = Web::new(&disk(), Fault::NoRanges(200_000)).await;
    get(&image(&web.url(), sha256(&disk())), cache.path()).await.unwrap();
    assert_eq!((web.requests(), web.sent()), (2, 200_000 + (1 << 20)));
}

#[tokio::test]
async fn a_wrong_length_and_a_busy_server_are_got_over() {
    let cache = tempfile::tempdir().unwrap();
    let web = Web::new(&disk(), Fault::TooLong(5000)).await;
    get(&image(&web.url(), sha256(&disk())), cache.path()).await.unwrap();
    let cache = tempfile::tempdir().unwrap();
    let web = Web::new(&disk(), Fault::Status(503, 2)).await;
    get(&image(&web.url(), sha256(&disk())), cache.path()).await.unwrap();
    assert_eq!(web.requests(), 3);
}

#[tokio::test]
async fn a_wrong_checksum_leaves_nothing_and_the_next_run_begins_anew() {
    let cache = tempfile::tempdir().unwrap();
    let web = Web::new(b"<html>please log in</html>", Fault::None).await;
    let image = image(&web.url(), sha256(&disk()));
    let error = get(&image, cache.path()).await.unwrap_err();
    assert!(error.contains("its checksum is sha256:") && error.contains("it is another file"), "{error}");
    assert_eq!(files(cache.path()), Vec::<String>::new());
    web.publish(&disk(), "\"two\"");
    get(&image, cache.path()).await.unwrap();
    // A checksum that fits does not make an image of it.
    let page = Web::new(b"<html>please log in</html>", Fault::None).await;
    let error = get(&self::image(&page.url(), sha256(b"<html>please log in</html>")), cache.path())
        .await
        .unwrap_err();
    assert!(error.contains("what is in it is no disk image"), "{error}");
}

#[tokio::test]
async fn what_a_server_refuses_is_said_at_once() {
    let cache = tempfile::tempdir().unwrap();
    for (status, expected) in [(404, "check the address"), (403, "wants credentials"), (400, "answered 400")]
    {
        let web = Web::new(&disk(), Fault::Status(status, usize::MAX)).await;
        let error = get(&image(&web.url(), sha256(&disk())), cache.path()).await.unwrap_err();
        assert!(error.contains(expected) && error.contains(&web.url()), "{error} lacks {expected}");
        assert_eq!(web.requests(), 1);
    }
    let error = get(&image("http://127.0.0.1:9/image", None), cache.path()).await.unwrap_err();
    assert!(error.contains("neither a checksum nor a signature"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_away_is_given_up_with_its_reason() {
    let cache = tempfile::tempdir().unwrap();
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let image = image(&format!("http://127.0.0.1:{port}/image"), sha256(&disk()));
    let error = get(&image, cache.path()).await.unwrap_err();
    assert!(error.contains("Connection refused") && error.contains("tried 6 times"), "{error}");
}

#[tokio::test]
async fn a_file_of_this_machine_is_taken_again_only_when_it_has_changed() {
    let (cache, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = directory.path().join("disk.img.bz2");
    let pack = |disk: &[u8]| {
        let mut packer = bzip2::read::BzEncoder::new(disk, bzip2::Compression::fast());
        let mut packed = Vec::new();
        std::io::Read::read_to_end(&mut packer, &mut packed).unwrap();
        std::fs::write(&path, &packed).unwrap();
        packed
    };
    let packed = pack(&disk());
    let unchecked = image(path.to_str().unwrap(), None);
    let first = get(&unchecked, cache.path()).await.unwrap();
    assert!(!first.cached && std::fs::read(&first.path).unwrap() == disk());
    assert!(get(&unchecked, cache.path()).await.unwrap().cached);
    // The checksum is that of the packed file; SHA-512, as Flatcar publishes it.
    let checksum: Checksum = hex(digest(&SHA512, &packed).as_ref()).parse().unwrap();
    let checked = Image { checksum: Some(checksum), ..unchecked.clone() };
    assert_eq!(get(&checked, cache.path()).await.unwrap().path, first.path);
    let mut changed = disk();
    changed[7] ^= 1;
    pack(&changed);
    let error = get(&checked, cache.path()).await.unwrap_err();
    assert!(error.contains("its checksum is sha512:") && path.exists(), "{error}");
    let second = get(&unchecked, cache.path()).await.unwrap();
    assert!(second.path != first.path && std::fs::read(&second.path).unwrap() == changed);
    assert!(first.path.exists(), "a disk may be over it");

    std::fs::remove_file(&path).unwrap();
    let error = get(&unchecked, cache.path()).await.unwrap_err();
    assert!(error.contains("disk.img.bz2: No such file"), "{error}");
}

#[tokio::test]
async fn an_authority_of_ones_own_and_a_proxy_are_used() {
    let cache = tempfile::tempdir().unwrap();
    let (web, authority) = Web::secure(&disk()).await;
    let secure = image(&format!("https://localhost:{}/image", web.port), sha256(&disk()));
    let trusting = Transport { authorities: vec![authority], proxy: None };
    fetch(&secure, cache.path(), &trusting, &|_| {}).await.unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let error = get(&secure, fresh.path()).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");

    // A proxy is asked for the whole address; this one answers by itself.
    let proxy = Web::new(&disk(), Fault::None).await;
    let transport = Transport { authorities: vec![], proxy: Some(proxy.url().parse().unwrap()) };
    let far = image("http://images.invalid/image", sha256(&disk()));
    fetch(&far, fresh.path(), &transport, &|_| {}).await.unwrap();
    assert_eq!(proxy.requests(), 1);
}

/// A file system with so little room that it is soon full.
struct Small(tempfile::TempDir);

impl Small {
    fn new(kibibytes: u32) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test mounts a small file system: run it as root");
        let small = Self(tempfile::tempdir().unwrap());
        small.mount(nix::mount::MsFlags::empty(), kibibytes);
        small
    }

    fn mount(&self, flags: nix::mount::MsFlags, kibibytes: u32) {
        let options = format!("size={kibibytes}k");
        nix::mount::mount(Some("none"), self.0.path(), Some("tmpfs"), flags, Some(options.as_str())).unwrap();
    }

    fn grow(&self, kibibytes: u32) {
        self.mount(nix::mount::MsFlags::MS_REMOUNT, kibibytes);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount(self.0.path());
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_the_next_run_goes_on() {
    let small = Small::new(512);
    let web = Web::new(&disk(), Fault::None).await;
    let wanted = image(&web.url(), sha256(&disk()));
    let error = get(&wanted, small.0.path()).await.unwrap_err();
    assert!(error.contains("1048576 more bytes are needed and ") && error.contains("make room"), "{error}");
    // Room for the download, and not for what is made of it.
    small.grow(1536);
    let error = get(&wanted, small.0.path()).await.unwrap_err();
    assert!(error.contains("unpacking into ") && error.contains("make room"), "{error}");
    let sent = web.sent();
    small.grow(4096);
    get(&wanted, small.0.path()).await.unwrap();
    // The last run asked only whether there are more bytes.
    assert_eq!(web.sent(), sent);
}

/// Makes keys and signs with them, by the program that publishers use.
struct Signer {
    home: PathBuf,
}

impl Signer {
    fn new(directory: &Path, name: &str) -> Self {
        use std::os::unix::fs::DirBuilderExt;
        let home = directory.join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&home).unwrap();
        let signer = Self { home };
        signer.gpg(&["--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "0"]);
        signer
    }

    fn gpg(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.arg("--batch").arg("--homedir").arg(&self.home).args(arguments);
        let output =
            command.output().expect("gpg (apt-get install gpg gpg-agent) makes the keys of this test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        let mut command = Command::new("gpgconf");
        let _ = command.arg("--homedir").arg(&self.home).args(["--kill", "all"]).output();
    }
}

#[tokio::test]
async fn a_signature_holds_for_its_file_and_its_key_only() {
    let (cache, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (publisher, stranger) =
        (Signer::new(directory.path(), "publisher"), Signer::new(directory.path(), "stranger"));
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("image"), disk()).unwrap();
    std::fs::write(at("keys"), publisher.gpg(&["--export"])).unwrap();
    std::fs::write(at("keys.asc"), publisher.gpg(&["--armor", "--export"])).unwrap();
    std::fs::write(at("strange"), stranger.gpg(&["--export"])).unwrap();
    let signed = publisher.gpg(&["--detach-sign", "--output", "-", at("image").to_str().unwrap()]);
    std::fs::write(at("image.sig"), &signed).unwrap();

    let web = Web::new(&disk(), Fault::None).await;
    let signatures = Web::new(&signed, Fault::None).await;
    let signature = |source: &str, keys: &str| {
        Some(Signature { source: source.parse::<Source>().unwrap(), keys: at(keys) })
    };
    let image = Image {
        source: web.url().parse().unwrap(),
        checksum: None,
        signature: signature(&signatures.url(), "keys"),
    };
    let found = get(&image, cache.path()).await.unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), disk());
    assert!(get(&image, cache.path()).await.unwrap().cached);

    let local = at("image.sig").to_str().unwrap().to_owned();
    get(&Image { signature: signature(&local, "keys.asc"), ..image.clone() }, cache.path()).await.unwrap();

    let error = get(&Image { signature: signature(&local, "strange"), ..image.clone() }, cache.path())
        .await
        .unwrap_err();
    assert!(error.contains("by a key that is not among those given"), "{error}");
    let error = get(&Image { signature: signature(&local, "image"), ..image.clone() }, cache.path())
        .await
        .unwrap_err();
    assert!(error.contains("these are no OpenPGP public keys"), "{error}");

    let mut forged = disk();
    forged[9] ^= 1;
    web.publish(&forged, "\"two\"");
    let fresh = tempfile::tempdir().unwrap();
    let error = get(&image, fresh.path()).await.unwrap_err();
    assert!(error.contains("the file is not the one that was signed"), "{error}");
    assert_eq!(files(fresh.path()), Vec::<String>::new());
    signatures.publish(b"<html>please log in</html>", "\"two\"");
    let error = get(&image, fresh.path()).await.unwrap_err();
    assert!(error.contains("does not hold"), "{error}");
}
