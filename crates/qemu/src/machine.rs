//! What a machine is to be. Plain data: nothing here touches the host.

use std::fmt;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// Its name: what errors and the host's process list show, and its host name in DHCP.
    pub name: String,
    /// How many processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory: u32,
    /// Its disk, `/dev/vda` inside; without one it must boot by [`Machine::boot`].
    pub disk: Option<Disk>,
    /// A kernel to start instead of what is on the disk.
    pub boot: Option<DirectBoot>,
    /// Files that the guest can read through QEMU's firmware configuration, for Ignition.
    pub firmware_files: Vec<FirmwareFile>,
    /// Network cards, in the order in which the guest finds them.
    pub cards: Vec<Card>,
    /// Where the serial console is written to; appended to, one file over all starts. From 16 MiB on it is
    /// renamed to `….old` at the next start.
    pub console: PathBuf,
    /// The machine's own directory: its monitor's socket, its process's lock, QEMU's log. Mode 0700.
    pub directory: PathBuf,
}

/// A disk that is a copy-on-write layer over an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disk {
    /// The layer, made when it is absent: all that the machine writes.
    pub path: PathBuf,
    /// The image below, qcow2 or raw; never written to, and must stay as long as the layer is used.
    pub base: PathBuf,
    /// The least size that the guest sees, in bytes; a larger image stays as large as it is.
    pub size: u64,
}

/// A kernel that QEMU puts into memory itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectBoot {
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The initial file system, if any.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line. Everybody on the host can read it: no secrets.
    pub append: String,
}

/// A file for the guest, under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FirmwareFile {
    /// The name in the firmware configuration, such as `opt/com.coreos/config`.
    pub name: String,
    /// The file on the host; it may be private, its contents never appear in an argument list.
    pub file: PathBuf,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Card {
    /// Its hardware address.
    pub mac: Mac,
    /// What it is plugged into.
    pub link: Link,
}

/// What a network card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Link {
    /// QEMU's own network: DHCP, DNS, and a way out through the host. Needs no rights.
    #[serde(rename_all = "camelCase")]
    User {
        /// Its addresses; the gateway is the second one, the guest gets the fifteenth.
        network: Ipv4Net,
        /// Ports of the host that lead into the guest.
        forwards: Vec<Forward>,
    },
    /// A tap in a bridge of the host. Needs root (CAP_NET_ADMIN). It is there as long as the machine runs.
    #[serde(rename_all = "camelCase")]
    Tap {
        /// The tap's name, at most 15 characters.
        name: String,
        /// The bridge, which must exist.
        bridge: String,
    },
    /// A cable that all machines with the same group share, as multicast on the host's loopback: for hosts
    /// without root. The host itself is not on it. Any user of the host can listen and send on it.
    #[serde(rename_all = "camelCase")]
    Segment {
        /// A multicast address and a port of its own, such as 230.0.0.1:21000.
        group: SocketAddrV4,
    },
}

/// A port of the host that leads into a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where the host listens.
    pub host: SocketAddrV4,
    /// The port in the guest.
    pub guest: u16,
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A hardware address, written as `52:54:00:17:04:65`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a hardware address like 52:54:00:17:04:65");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

/// The longest name of a network interface, set by the kernel (IFNAMSIZ less its zero).
pub(crate) const INTERFACE_NAME: usize = 15;

impl Machine {
    /// Checks what can be known without looking at the host.
    ///
    /// # Errors
    /// [`Error::Description`] with the first thing that is wrong.
    pub fn validate(&self) -> Result<()> {
        self.problem().map_or(Ok(()), |reason| Err(Error::Description { machine: self.name.clone(), reason }))
    }

    fn problem(&self) -> Option<String> {
        let Self { name, cpus, memory, disk, boot, firmware_files, cards, console, directory } = self;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if name.is_empty() || name.len() > 63 || !name.chars().all(word) || name.starts_with('-') {
            return Some(
                "its name must be 1 to 63 letters, digits, dashes and dots, not beginning with a dash".into(),
            );
        }
        if !(1..=255).contains(cpus) {
            return Some(format!("{cpus} processors; it must be 1 to 255"));
        }
        // Less than this and not even the firmware and a kernel fit.
        if !(16..=4 * 1024 * 1024).contains(memory) {
            return Some(format!("{memory} MiB of memory; it must be 16 MiB to 4 TiB"));
        }
        if disk.is_none() && boot.is_none() {
            return Some("it has neither a disk nor a kernel to boot from".into());
        }
        let mut paths: Vec<&Path> = vec![console, directory];
        if let Some(Disk { path, base, size }) = disk {
            paths.extend([path.as_path(), base]);
            if *size % 512 != 0 {
                return Some(format!("its disk's size of {size} bytes is not a multiple of 512"));
            }
        }
        if let Some(DirectBoot { kernel, initrd, append }) = boot {
            paths.push(kernel);
            paths.extend(initrd.as_deref());
            if append.contains(['\n', '\0']) {
                return Some("its kernel's command line has more than one line".into());
            }
        }
        for FirmwareFile { name, file } in firmware_files {
            paths.push(file);
            // QEMU takes 55 characters and leaves everything outside opt/ to itself.
            if !name.starts_with("opt/") || name.len() > 55 || name.contains([',', '\0']) {
                return Some(format!(
                    "the firmware file name {name:?}; it must begin with opt/ and have at most 55 characters"
                ));
            }
        }
        if let Some(path) = paths.iter().find(|path| !path.is_absolute()) {
            return Some(format!("the path {} is not absolute", path.display()));
        }
        // QEMU takes the disk's path as JSON, which is text.
        if let Some(path) = paths.iter().find(|path| path.to_str().is_none()) {
            return Some(format!("the path {} is not UTF-8", path.display()));
        }
        cards.iter().find_map(Card::problem)
    }
}

impl Card {
    fn problem(&self) -> Option<String> {
        if self.mac.0[0] & 1 == 1 {
            return Some(format!("the hardware address {} is a multicast one", self.mac));
        }
        let interface = |name: &str| {
            let bad = name.is_empty()
                || name.len() > INTERFACE_NAME
                || name == "."
                || name == ".."
                || name.contains(['/', ':', '%'])
                || name.chars().any(|c| c.is_whitespace() || c.is_control());
            bad.then(|| format!("{name:?} cannot be a network interface's name"))
        };
        match &self.link {
            Link::User { network, forwards } => {
                if network.prefix_len() > 27 {
                    return Some(format!("the network {network} is too small: a /27 is the least"));
                }
                let zero = forwards.iter().find(|forward| forward.guest == 0 || forward.host.port() == 0);
                zero.map(|_| "a forwarded port is 0".into())
            }
            Link::Tap { name, bridge } => interface(name).or_else(|| interface(bridge)),
            Link::Segment { group } => {
                let bad = !group.ip().is_multicast() || group.port() == 0;
                bad.then(|| format!("{group} is not a multicast address with a port"))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn machine() -> Machine {
        Machine {
            name: "w1".into(),
            cpus: 2,
            memory: 1024,
            disk: Some(Disk {
                path: "/state/w1/disk.qcow2".into(),
                base: "/cache/base, the first.qcow2".into(),
                size: 8 << 30,
            }),
            boot: None,
            firmware_files: vec![FirmwareFile {
                name: "opt/com.coreos/config".into(),
                file: "/state/w1/a,b.ign".into(),
            }],
            cards: vec![
                Card {
                    mac: Mac([0x52, 0x54, 0, 0, 0, 1]),
                    link: Link::User {
                        network: "10.0.2.0/24".parse().unwrap(),
                        forwards: vec![Forward {
                            protocol: Protocol::Tcp,
                            host: "127.0.0.1:22022".parse().unwrap(),
                            guest: 22,
                        }],
                    },
                },
                Card {
                    mac: "52:54:00:17:04:65".parse().unwrap(),
                    link: Link::Tap { name: "tap-w1".into(), bridge: "vmbr0".into() },
                },
            ],
            console: "/state/w1/console.log".into(),
            directory: "/state/w1/run".into(),
        }
    }

    #[test]
    fn a_description_without_sense_is_told_apart() {
        machine().validate().unwrap();
        type Change = fn(&mut Machine);
        let cases: &[(Change, &str)] = &[
            (|m| m.name = "-x".into(), "its name must be"),
            (|m| m.name = "a,b".into(), "its name must be"),
            (|m| m.cpus = 0, "0 processors"),
            (|m| m.memory = 8, "8 MiB of memory"),
            (|m| m.disk = None, "neither a disk nor a kernel"),
            (|m| m.disk.as_mut().unwrap().size = 1000, "multiple of 512"),
            (|m| m.console = "console.log".into(), "the path console.log is not absolute"),
            (|m| m.firmware_files[0].name = "etc/x".into(), "must begin with opt/"),
            (|m| m.cards[0].mac = Mac([1, 0, 0, 0, 0, 0]), "is a multicast one"),
            (
                |m| {
                    m.cards[1].link = Link::Tap { name: "a-name-that-is-too-long".into(), bridge: "b".into() }
                },
                "cannot be a network interface's name",
            ),
            (|m| m.cards[1].link = Link::Segment { group: "10.0.0.1:5".parse().unwrap() }, "not a multicast"),
            (
                |m| {
                    m.cards[1].link = Link::User { network: "10.0.0.0/29".parse().unwrap(), forwards: vec![] }
                },
                "too small",
            ),
            (
                |m| {
                    m.boot = Some(DirectBoot { kernel: "/k".into(), initrd: None, append: "a\nb".into() });
                },
                "more than one line",
            ),
        ];
        for (change, expected) in cases {
            let mut machine = machine();
            change(&mut machine);
            let error = machine.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
    }

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let mac: Mac = "52:54:00:aB:04:65".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:04:65");
        for bad in [
            "",
            "52:54:00:17:04",
            "52:54:00:17:04:65:01",
            "5:54:00:17:04:65",
            "zz:54:00:17:04:65",
            "+2:54:00:17:04:65",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
