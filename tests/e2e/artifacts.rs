//! What `cluster generate` writes for virtual machines, judged by the programs that read it: the real Ignition,
//! Vagrant, systemd and OpenSSH. No machine boots here.

use std::fmt::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROVIDERS: [(&str, &str); 2] = [("qemu", "image"), ("vagrant", "box")];
const FLAVORS: [&str; 2] = ["flatcar", "fedora-coreos"];
/// Where Debian's package has the program that runs in the initramfs.
const IGNITION: &str = "/usr/lib/dracut/modules.d/30ignition/ignition";

/// Runs a program of a Debian package; one that is not there fails the test and is named.
#[track_caller]
fn run(package: &str, command: &mut Command) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    command.output().unwrap_or_else(|error| {
        panic!("{program}: {error}: apt-get install {package}, or run tests/run, which does")
    })
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The artifacts of one spec.
struct Artifacts(tempfile::TempDir);

impl Artifacts {
    #[track_caller]
    fn of(spec: &str) -> Self {
        Self::beside(spec, &[])
    }

    /// Writes a spec with files beside it, and generates.
    #[track_caller]
    fn beside(spec: &str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cluster.yaml"), spec).unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_cluster"));
        command.current_dir(directory.path()).args(["--state-dir", "state", "generate", "out"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{spec}\n{}", text(&output));
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("out").join(name)
    }

    /// Returns the Ignition configurations, sorted.
    fn ignitions(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("machines")).unwrap();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        found.retain(|path| path.extension().is_some_and(|extension| extension == "ign"));
        found.sort();
        found
    }
}

/// A spec with everything that Ignition is given.
fn full(flavor: &str) -> Artifacts {
    let spec = format!(
        "provider: qemu\nos: {{ flavor: {flavor}, image: own.img }}\nssh: {{ user: admin }}\n\
         ignition: own.yaml\ncertificates: [ca.pem]\nproxy: {{ httpProxy: \"http://user:secret@proxy:3128\" }}"
    );
    let own = "variant: flatcar\nversion: 1.0.0\nstorage:\n  files:\n  - path: /etc/motd\n    mode: 0640\n    contents:\n      \
               inline: |\n        mine\n  - path: /etc/sysctl.d/90-kubernetes.conf\n    overwrite: true\n    contents:\n      \
               local: cluster.yaml\n";
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ed25519",
        "-nodes",
        "-keyout",
        "/dev/null",
        "-subj",
        "/CN=test",
        "-days",
        "2",
    ]);
    let certificate = run("openssl", &mut openssl);
    assert!(certificate.status.success(), "{}", text(&certificate));
    Artifacts::beside(
        &spec,
        &[("own.yaml", own), ("ca.pem", &String::from_utf8(certificate.stdout).unwrap())],
    )
}

#[test]
fn ignition_accepts_every_configuration_of_a_matrix_without_a_word() {
    let check = |artifacts: &Artifacts, count: usize| {
        let all = artifacts.ignitions();
        assert_eq!(all.len(), count);
        for path in all {
            let said = run("ignition", Command::new("ignition-validate").arg(&path));
            // Words that it does not know are only warnings to it: any output is a failure here.
            assert!(said.status.success() && text(&said).is_empty(), "{}: {}", path.display(), text(&said));
        }
    };
    for (provider, from) in PROVIDERS {
        for flavor in FLAVORS {
            for masters in [1, 3] {
                // With one and two workers there are no other machines than with three.
                for workers in [0, 3] {
                    let artifacts = Artifacts::of(&format!(
                        "provider: {provider}\nos: {{ flavor: {flavor}, {from}: own }}\n\
                         masters: {{ count: {masters} }}\nworkers: {{ count: {workers} }}"
                    ));
                    let each = if provider == "vagrant" { 2 } else { 1 };
                    check(&artifacts, (masters + workers) * each);
                }
            }
        }
    }
    for flavor in FLAVORS {
        check(&full(flavor), 2);
    }
}

/// Applies a configuration to a directory that has of a CoreOS what Ignition looks at, as the initramfs does.
fn apply(configuration: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("etc/passwd", "root:x:0:0::/root:/bin/sh\ncore:x:500:500::/home/core:/bin/sh\n");
    put("etc/group", "root:x:0:\nsudo:x:150:\ncore:x:500:\n");
    put("etc/shadow", "root:*::::::\ncore:*::::::\n");
    // Debian's Ignition insists on labels; there are none to give.
    put("etc/selinux/config", "SELINUX=disabled\nSELINUXTYPE=none\n");
    put("etc/selinux/none/contexts/files/file_contexts", "");
    std::fs::create_dir_all(root.join("home/core")).unwrap();
    std::os::unix::fs::chown(root.join("home/core"), Some(500), Some(500)).unwrap();
    let tools = directory.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    std::os::unix::fs::symlink("/bin/true", tools.join("setfiles")).unwrap();
    for stage in ["fetch-offline", "fetch", "files"] {
        let mut command = Command::new(IGNITION);
        command
            .args(["--platform=file", "--log-to-stdout"])
            .arg(format!("--root={}", root.display()))
            .arg(format!("--stage={stage}"));
        for (flag, file) in [("config-cache", "cache"), ("state-file", "state"), ("neednet", "neednet")] {
            command.arg(format!("--{flag}={}", directory.path().join(file).display()));
        }
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
        command.env("IGNITION_CONFIG_FILE", configuration).env("PATH", path);
        let said = run("ignition", &mut command);
        assert!(said.status.success(), "{} {stage}: {}", configuration.display(), text(&said));
    }
    directory
}

/// Lists a tree: mode, owner, group and path of everything that Ignition put there or changed.
fn tree(root: &Path) -> String {
    fn walk(root: &Path, directory: &Path, lines: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let about = std::fs::symlink_metadata(&path).unwrap();
            let inner = path.strip_prefix(root).unwrap();
            if inner.starts_with("etc/selinux") {
                continue;
            }
            let (mode, kind) = (about.permissions().mode() & 0o7777, if about.is_dir() { "/" } else { "" });
            let (user, group) = (about.uid(), about.gid());
            lines.push(format!("/{}{kind} {mode:04o} {user}:{group}", inner.display()));
            if about.is_dir() {
                walk(root, &path, lines);
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, root, &mut lines);
    lines.sort();
    lines.join("\n") + "\n"
}

#[test]
fn ignition_applied_to_a_directory_gives_the_recorded_trees() {
    for flavor in FLAVORS {
        let artifacts = Artifacts::of(&format!("provider: vagrant\nos: {{ flavor: {flavor}, box: own }}"));
        let mut all = String::new();
        for name in ["m1.ign", "w1.ign", "m1-first.ign"] {
            let applied = apply(&artifacts.path("machines").join(name));
            let root = applied.path().join("root");
            writeln!(all, "{name}\n{}", tree(&root)).unwrap();
            let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
            let made = |path: &str| std::fs::read_to_string(artifacts.path(path)).unwrap();
            let machine = &name[..2];
            assert_eq!(
                read("etc/ssh/ssh_host_ed25519_key"),
                made(&format!("ssh/{machine}_host_ed25519_key"))
            );
            let keys = read("home/core/.ssh/authorized_keys.d/ignition");
            assert_eq!(keys.trim(), made("ssh/id_ed25519.pub").trim());
            if name.ends_with("first.ign") {
                continue;
            }
            assert_eq!(read("etc/hostname"), format!("{machine}\n"));
            // What comes over SSH later is what is there already, and nothing needs to be restarted.
            for file in walk(&artifacts.path("machines").join(machine)) {
                let inner = file.strip_prefix(artifacts.path("machines").join(machine)).unwrap();
                let there = root.join(inner);
                if there.exists() {
                    assert_eq!(
                        std::fs::read(&file).unwrap(),
                        std::fs::read(&there).unwrap(),
                        "{}",
                        inner.display()
                    );
                } else {
                    // The cluster's secrets and its configuration are not Ignition's to bring.
                    assert!(inner.starts_with("etc/kubernetes"), "{} is not in Ignition", inner.display());
                }
            }
        }
        insta::assert_snapshot!(format!("tree of {flavor}"), all);
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn the_users_own_ignition_is_merged_by_ignition_itself_and_wins() {
    for flavor in FLAVORS {
        let artifacts = full(flavor);
        let applied = apply(&artifacts.path("machines/m1.ign"));
        let root = applied.path().join("root");
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        assert_eq!(read("etc/motd"), "mine\n");
        assert!(
            read("etc/sysctl.d/90-kubernetes.conf").starts_with("provider: qemu"),
            "the user's file wins"
        );
        assert!(read("etc/group").contains("sudo:x:150:admin"), "a user of another name may use sudo");
        let listed = tree(&root);
        assert!(listed.contains("/etc/motd 0640 0:0\n"), "{listed}");
        assert!(listed.contains("/etc/kubernetes/proxy.env 0600 0:0\n"), "{listed}");
        insta::assert_snapshot!(format!("tree of everything {flavor}"), listed);
    }
}

#[test]
fn vagrant_accepts_the_vagrantfiles() {
    for spec in [
        "provider: vagrant",
        "name: own-key\nprovider: vagrant\nos: { flavor: fedora-coreos, box: \"own/fcos\", boxUrl: own.box }\n\
         masters: { count: 3, cpus: 2, memory: 2Gi, disk: 30Gi }\nworkers: { count: 3 }",
    ] {
        let artifacts = Artifacts::of(spec);
        let home = tempfile::tempdir().unwrap();
        let drivers: &[&str] = if spec == "provider: vagrant" { &["kvm", "qemu"] } else { &["kvm"] };
        for driver in drivers {
            let mut command = Command::new("vagrant");
            command
                .arg("validate")
                .current_dir(artifacts.path(""))
                .env("VAGRANT_HOME", home.path())
                .env("VAGRANT_DEFAULT_PROVIDER", "libvirt")
                .env("CLUSTER_VIRT_DRIVER", driver);
            let said = run("vagrant vagrant-libvirt", &mut command);
            assert!(said.status.success(), "{spec}\n{}", text(&said));
            assert!(text(&said).contains("Vagrantfile validated successfully."), "{}", text(&said));
            assert!(!text(&said).to_lowercase().contains("warning"), "{}", text(&said));
        }
    }
}

#[test]
fn systemd_knows_every_word_of_the_units() {
    for flavor in FLAVORS {
        let artifacts = full(flavor);
        let units = artifacts.path("machines/m1/etc/systemd/system");
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]);
        for unit in ["control-plane", "node-agent", "cluster-trust"] {
            command.arg(units.join(format!("{unit}.service")));
        }
        let said = text(&run("systemd", &mut command));
        // This machine has neither the cluster's programs nor those of a CoreOS; everything else is a fault.
        let faults: Vec<&str> = said.lines().filter(|line| !line.contains("is not executable")).collect();
        assert!(faults.is_empty(), "{said}");
        assert!(said.contains("/opt/bin/control-plane is not executable"), "it read nothing: {said}");
    }
}

#[test]
fn openssh_reads_the_keys_and_nobody_else_does() {
    let artifacts = Artifacts::of("provider: qemu");
    for key in ["id_ed25519", "m1_host_ed25519_key", "w1_host_ed25519_key"] {
        let private = artifacts.path("ssh").join(key);
        let said = run("openssh-client", Command::new("ssh-keygen").arg("-y").arg("-f").arg(&private));
        assert!(said.status.success(), "{}", text(&said));
        let public = std::fs::read_to_string(artifacts.path("ssh").join(format!("{key}.pub"))).unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), public.trim());
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o7777, 0o600);
    }
    for directory in ["ssh", "machines"] {
        let about = std::fs::metadata(artifacts.path(directory)).unwrap();
        assert_eq!(about.permissions().mode() & 0o7777, 0o700, "{directory}");
    }
}
