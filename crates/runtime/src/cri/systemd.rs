//! Slices of systemd, made and ended over its D-Bus interface (`org.freedesktop.systemd1.Manager`).
//!
//! With containerd's cgroup driver "systemd" the groups are systemd's: limits that were written into the files
//! behind its back would be gone after its next reload. Three calls are all that is needed, so they are encoded
//! here, as the D-Bus specification has it ("Message Protocol"); everything blocks, but for moments only.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::{Error, Resources, Result};

/// Where the system's bus is.
const BUS: &str = "/run/dbus/system_bus_socket";
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const LARGEST: usize = 1 << 20;
/// What a slice of that name being there already is called.
const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// What a slice that is not there is called.
const MISSING: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A property of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
}

/// Makes the slice `name`, or changes its limits if it is there. systemd makes its parents by itself.
pub(super) fn start_slice(name: &str, resources: &Resources, unified: bool) -> Result<()> {
    let properties = properties(resources, unified);
    let mut bus = Bus::connect(Path::new(BUS))?;
    let mut start = Body::default();
    start.text(name);
    start.text("replace");
    let mut all = vec![
        ("Description", Value::Text(format!("pod {name}"))),
        ("DefaultDependencies", Value::Flag(false)),
        ("CPUAccounting", Value::Flag(true)),
        ("MemoryAccounting", Value::Flag(true)),
        ("TasksAccounting", Value::Flag(true)),
    ];
    all.extend(properties.clone());
    start.properties(&all);
    start.array(8, |_| {});
    match bus.call("StartTransientUnit", "ssa(sv)a(sa(sv))", &start.bytes) {
        Err(Refusal { name: error, .. }) if error == EXISTS => {
            let mut change = Body::default();
            change.text(name);
            change.number(1);
            change.properties(&properties);
            bus.call("SetUnitProperties", "sba(sv)", &change.bytes).map_err(|refusal| refusal.about(name))
        }
        other => other.map_err(|refusal| refusal.about(name)),
    }
}

/// Ends the slice `name` and everything in it. Succeeds when there is none.
pub(super) fn stop_slice(name: &str) -> Result<()> {
    let mut body = Body::default();
    body.text(name);
    body.text("replace");
    match Bus::connect(Path::new(BUS))?.call("StopUnit", "ss", &body.bytes) {
        Err(Refusal { name: error, .. }) if error == MISSING => Ok(()),
        other => other.map_err(|refusal| refusal.about(name)),
    }
}

/// Returns the limits as systemd names them.
fn properties(resources: &Resources, unified: bool) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    if resources.cpu_shares > 0 {
        let shares = resources.cpu_shares.clamp(2, 262_144);
        all.push(if unified {
            ("CPUWeight", Value::Number(crate::cgroup::weight(shares)))
        } else {
            ("CPUShares", Value::Number(shares))
        });
    }
    if let Ok(quota) = u64::try_from(resources.cpu_quota)
        && quota > 0
    {
        let period = if resources.cpu_period == 0 { 100_000 } else { resources.cpu_period };
        // In microseconds a second, in steps of 10 ms: systemd rounds up what is finer, as runc does.
        let second = (quota.saturating_mul(1_000_000) / period).next_multiple_of(10_000);
        all.push(("CPUQuotaPerSecUSec", Value::Number(second)));
    }
    if let Ok(limit) = u64::try_from(resources.memory_limit)
        && limit > 0
    {
        all.push((if unified { "MemoryMax" } else { "MemoryLimit" }, Value::Number(limit)));
    }
    if let Ok(limit) = u64::try_from(resources.pids_limit)
        && limit > 0
    {
        all.push(("TasksMax", Value::Number(limit)));
    }
    all
}

/// Why systemd or the bus did not do it.
#[derive(Debug)]
struct Refusal {
    /// The error's name, or empty.
    name: String,
    text: String,
}

impl Refusal {
    fn about(self, slice: &str) -> Error {
        Error::system(format!("asking systemd for the slice {slice}"), self.text)
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self { name: String::new(), text: error.to_string() }
    }
}

/// A connection to the bus.
struct Bus {
    stream: UnixStream,
    serial: u32,
}

impl Bus {
    fn connect(path: &Path) -> Result<Self> {
        let open = || -> std::io::Result<UnixStream> {
            let mut stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let user: String =
                nix::unistd::geteuid().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
            stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
            let answer = line(&mut stream)?;
            if !answer.starts_with("OK ") {
                return Err(std::io::Error::other(format!("the bus refuses this user: {}", answer.trim())));
            }
            stream.write_all(b"BEGIN\r\n")?;
            Ok(stream)
        };
        let failed = |reason: String| {
            Error::system(format!("connecting to the system's bus at {}", path.display()), reason)
        };
        let mut bus = Self { stream: open().map_err(|error| failed(error.to_string()))?, serial: 0 };
        let hello = Header {
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            destination: "org.freedesktop.DBus",
            signature: "",
        };
        bus.exchange(&hello, &[]).map_err(|refusal| failed(refusal.text))?;
        Ok(bus)
    }

    fn call(&mut self, member: &str, signature: &str, body: &[u8]) -> Result<(), Refusal> {
        let header = Header {
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member,
            destination: "org.freedesktop.systemd1",
            signature,
        };
        self.exchange(&header, body)
    }

    fn exchange(&mut self, header: &Header<'_>, body: &[u8]) -> Result<(), Refusal> {
        self.serial += 1;
        self.stream.write_all(&message(self.serial, header, body))?;
        loop {
            let answer = Answer::read(&mut self.stream)?;
            if answer.reply_to == Some(self.serial) {
                return match answer.error {
                    None => Ok(()),
                    Some(name) => Err(Refusal { text: format!("{name}: {}", answer.text), name }),
                };
            }
            // A signal, or the bus's greeting.
        }
    }
}

/// Reads a line of the handshake.
fn line(stream: &mut UnixStream) -> std::io::Result<String> {
    let mut text = String::new();
    let mut byte = [0u8];
    while !text.ends_with("\r\n") && text.len() < 1024 {
        stream.read_exact(&mut byte)?;
        text.push(char::from(byte[0]));
    }
    Ok(text)
}

/// The header of a method call.
struct Header<'a> {
    path: &'a str,
    interface: &'a str,
    member: &'a str,
    destination: &'a str,
    signature: &'a str,
}

/// Returns a method call as it is sent: little endian, protocol 1.
fn message(serial: u32, header: &Header<'_>, body: &[u8]) -> Vec<u8> {
    let mut out = Body { bytes: vec![b'l', 1, 0, 1] };
    out.number(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.number(serial);
    out.array(8, |fields| {
        for (code, kind, text) in [
            (1, "o", header.path),
            (2, "s", header.interface),
            (3, "s", header.member),
            (6, "s", header.destination),
        ] {
            fields.pad(8);
            fields.bytes.push(code);
            fields.signature(kind);
            fields.text(text);
        }
        if !header.signature.is_empty() {
            fields.pad(8);
            fields.bytes.push(8);
            fields.signature("g");
            fields.signature(header.signature);
        }
    });
    out.pad(8);
    out.bytes.extend_from_slice(body);
    out.bytes
}

/// Values one after the other, each aligned from the start.
#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
}

impl Body {
    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, value: u32) {
        self.pad(4);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    /// Appends an array of elements with this alignment. Its length does not count the padding before the first.
    fn array(&mut self, align: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let length_at = self.bytes.len() - 4;
        self.pad(align);
        let start = self.bytes.len();
        elements(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn properties(&mut self, properties: &[(&str, Value)]) {
        self.array(8, |array| {
            for (name, value) in properties {
                array.pad(8);
                array.text(name);
                match value {
                    Value::Text(text) => {
                        array.signature("s");
                        array.text(text);
                    }
                    Value::Flag(flag) => {
                        array.signature("b");
                        array.number(u32::from(*flag));
                    }
                    Value::Number(number) => {
                        array.signature("t");
                        array.pad(8);
                        array.bytes.extend_from_slice(&number.to_le_bytes());
                    }
                }
            }
        });
    }
}

/// An answer, as far as it is of use.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    reply_to: Option<u32>,
    error: Option<String>,
    /// The text of an error.
    text: String,
}

impl Answer {
    fn read(stream: &mut impl Read) -> std::io::Result<Self> {
        let mut start = [0u8; 16];
        stream.read_exact(&mut start)?;
        let word =
            |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]) as usize;
        if start[0] != b'l' {
            return Err(std::io::Error::other("the bus answers in another order of bytes"));
        }
        let (body_length, fields_length) = (word(4), word(12));
        if body_length > LARGEST || fields_length > LARGEST {
            return Err(std::io::Error::other("the bus's answer is too large"));
        }
        let mut rest = vec![0u8; fields_length.next_multiple_of(8) + body_length];
        stream.read_exact(&mut rest)?;
        let (fields, body) = rest.split_at(fields_length.next_multiple_of(8));
        let mut answer = Self::default();
        let mut fields = Reader { bytes: &fields[..fields_length], at: 0 };
        while let Some(code) = fields.field() {
            let Some(kind) = fields.signature() else { break };
            match (code, kind.as_str()) {
                (4, "s") => answer.error = fields.text(),
                (5, "u") => answer.reply_to = fields.number(),
                (_, "s" | "o") => drop(fields.text()),
                (_, "g") => drop(fields.signature()),
                (_, "u") => drop(fields.number()),
                // None has another type.
                _ => break,
            }
        }
        if answer.error.is_some() {
            answer.text = Reader { bytes: body, at: 0 }.text().unwrap_or_default();
        }
        Ok(answer)
    }
}

/// Reads values; `None` when they are cut off.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(length)?;
        let found = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(found)
    }

    fn field(&mut self) -> Option<u8> {
        self.at = self.at.next_multiple_of(8);
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.at = self.at.next_multiple_of(4);
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.take(1)?[0]);
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// Made by another implementation of the protocol (jeepney 0.9), as is [`ERROR`].
    const CALL: &str = "6c0100018800000007000000b600000001016f00190000002f6f72672f667265656465736b746f702f73797374656d6431\
        0000000000000002017300200000006f72672e667265656465736b746f702e73797374656d64312e4d616e61676572000000000000000003\
        0173001200000053746172745472616e7369656e74556e697400000000000006017300180000006f72672e667265656465736b746f702e73\
        797374656d6431000000000000000008016700107373612873762961287361287376292900000007000000612e736c696365000700000072\
        65706c6163650060000000000000000b0000004465736372697074696f6e00017300000100000078000000000000001300000044656661756c\
        74446570656e64656e63696573000162000000000000090000004d656d6f72794d6178000174000000000000000000001000000000000000\
        000000000000";
    const ERROR: &str = "6c03000121000000090000004f00000004017300230000006f72672e667265656465736b746f702e73797374656d6431\
        2e556e69744578697374730000000000050175000700000007017300040000003a312e310000000008016700017300001c000000556e6974\
        20612e736c69636520616c7265616479206578697374732e00";

    #[test]
    fn calls_are_encoded_as_others_do() {
        let mut body = Body::default();
        body.text("a.slice");
        body.text("replace");
        body.properties(&[
            ("Description", Value::Text("x".into())),
            ("DefaultDependencies", Value::Flag(false)),
            ("MemoryMax", Value::Number(1 << 20)),
        ]);
        body.array(8, |_| {});
        let header = Header {
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "StartTransientUnit",
            destination: "org.freedesktop.systemd1",
            signature: "ssa(sv)a(sa(sv))",
        };
        assert_eq!(message(7, &header, &body.bytes), hex(CALL));
    }

    #[test]
    fn errors_are_read_and_what_is_cut_off_is_one() {
        let bytes = hex(ERROR);
        let answer = Answer::read(&mut bytes.as_slice()).unwrap();
        assert_eq!(answer.reply_to, Some(7));
        assert_eq!(answer.error.as_deref(), Some(EXISTS));
        assert_eq!(answer.text, "Unit a.slice already exists.");
        for length in 0..bytes.len() {
            Answer::read(&mut &bytes[..length]).unwrap_err();
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 16..200)) {
            bytes[0] = b'l';
            bytes[4..8].copy_from_slice(&20u32.to_le_bytes());
            bytes[12..16].copy_from_slice(&100u32.to_le_bytes());
            drop(Answer::read(&mut bytes.as_slice()));
        }
    }

    #[test]
    fn limits_have_the_names_of_their_version() {
        let resources = Resources {
            cpu_shares: 1024,
            cpu_quota: 50_500,
            cpu_period: 100_000,
            memory_limit: 1 << 20,
            pids_limit: 10,
            ..Resources::default()
        };
        let names =
            |unified| properties(&resources, unified).iter().map(|(name, _)| *name).collect::<Vec<_>>();
        assert_eq!(names(true), ["CPUWeight", "CPUQuotaPerSecUSec", "MemoryMax", "TasksMax"]);
        assert_eq!(names(false), ["CPUShares", "CPUQuotaPerSecUSec", "MemoryLimit", "TasksMax"]);
        assert!(properties(&resources, true).contains(&("CPUQuotaPerSecUSec", Value::Number(510_000))));
        assert!(properties(&Resources::default(), true).is_empty());
    }
}
