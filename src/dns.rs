//! Asks a DNS server for an address: the hidden subcommand `dns-query SERVER NAME MILLISECONDS`, which `up`
//! and `verify` run inside a node. Small enough to be here; a resolver would do a great deal more.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};

/// How long one answer may take before the question is put again.
const ATTEMPT: Duration = Duration::from_millis(250);

/// Prints the address of a name.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "its answer is what it prints")]
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let outcome = match words[..] {
        [server, name, limit] => match (server.parse(), limit.parse()) {
            (Ok(server), Ok(limit)) => {
                resolve(SocketAddr::new(server, 53), name, Duration::from_millis(limit))
            }
            _ => Err(Error::usage("usage: cluster dns-query SERVER NAME MILLISECONDS")),
        },
        _ => Err(Error::usage("usage: cluster dns-query SERVER NAME MILLISECONDS")),
    };
    match outcome {
        Ok(address) => {
            println!("{address}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", error.line());
            ExitCode::from(error.code())
        }
    }
}

/// Asks `server` for the address of `name` until it is told one, for `limit` at most.
pub(crate) fn resolve(server: SocketAddr, name: &str, limit: Duration) -> Result<Ipv4Addr> {
    let deadline = Instant::now() + limit;
    let mut last = String::from("no answer");
    let mut id: u16 = 1;
    while Instant::now() < deadline {
        match ask(server, name, id, deadline) {
            Ok(address) => return Ok(address),
            Err(error) => last = error.line(),
        }
        id = id.wrapping_add(1);
    }
    Err(Error::user(format!("{server} was asked for {name} for {limit:?}")).because(last))
}

/// Asks once for all addresses of `name`.
pub(crate) fn lookup(server: SocketAddr, name: &str, limit: Duration) -> Result<Vec<Ipv4Addr>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("opening a socket")?;
    exchange(&socket, server, name, 1, Instant::now() + limit)
}

fn ask(server: SocketAddr, name: &str, id: u16, deadline: Instant) -> Result<Ipv4Addr> {
    let attempt = Instant::now() + ATTEMPT;
    let until = attempt.min(deadline);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("opening a socket")?;
    let outcome = exchange(&socket, server, name, id, until);
    if outcome.is_err() {
        // A refusal comes at once; the next question waits for its turn, on the socket and not by the clock.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut rest = [0u8; 1];
        if socket.set_read_timeout(Some(left.min(Duration::from_millis(20)))).is_ok() {
            // Whatever comes here belongs to a question that is given up.
            socket.recv(&mut rest).unwrap_or_default();
        }
    }
    outcome?.first().copied().context("the answer has no address")
}

fn exchange(
    socket: &UdpSocket,
    server: SocketAddr,
    name: &str,
    id: u16,
    until: Instant,
) -> Result<Vec<Ipv4Addr>> {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    socket.set_read_timeout(Some(left)).context("setting the deadline")?;
    socket.connect(server).context("reaching the server")?;
    socket.send(&question(id, name)?).context("asking")?;
    let mut buffer = [0u8; 1500];
    let length = socket.recv(&mut buffer).context("waiting for the answer")?;
    answer(&buffer[..length], id)
}

fn question(id: u16, name: &str) -> Result<Vec<u8>> {
    let mut packet = Vec::with_capacity(64);
    packet.extend(id.to_be_bytes());
    // Recursion is wanted; one question.
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
        packet.push(length.context(format!("{name:?} is not a DNS name"))?);
        packet.extend(label.as_bytes());
    }
    // The root; type A, class IN.
    packet.extend([0, 0, 1, 0, 1]);
    Ok(packet)
}

fn answer(packet: &[u8], id: u16) -> Result<Vec<Ipv4Addr>> {
    let short = || Error::user("the answer is cut short");
    let word = |at: usize| -> Result<u16> {
        let bytes = packet.get(at..at + 2).ok_or_else(short)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    if word(0)? != id {
        return Err(Error::user("the answer is to another question"));
    }
    match word(2)? & 15 {
        0 => {}
        3 => return Err(Error::user("there is no such name (NXDOMAIN)")),
        code => return Err(Error::user(format!("the server refused with code {code}"))),
    }
    let mut at = 12;
    for _ in 0..word(4)? {
        at = skip_name(packet, at).ok_or_else(short)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..word(6)? {
        at = skip_name(packet, at).ok_or_else(short)?;
        let (kind, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = packet.get(at + 10..at + 10 + length).ok_or_else(short)?;
        if kind == 1
            && let Ok(octets) = <[u8; 4]>::try_from(data)
        {
            found.push(octets.into());
        }
        at += 10 + length;
    }
    if found.is_empty() { Err(Error::user("the answer has no address")) } else { Ok(found) }
}

fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_behind_a_compressed_name() {
        let mut packet = question(7, "a.example").unwrap();
        packet[2] = 0x81;
        packet[7] = 1;
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 3, 0, 1]);
        assert_eq!(answer(&packet, 7).unwrap(), [Ipv4Addr::new(10, 3, 0, 1)]);
        assert!(answer(&packet, 8).is_err());
        for cut in 0..packet.len() {
            assert!(answer(&packet[..cut], 7).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_told_apart() {
        let mut packet = question(7, "a.example").unwrap();
        packet[3] = 3;
        assert!(answer(&packet, 7).unwrap_err().line().contains("NXDOMAIN"));
    }
}
