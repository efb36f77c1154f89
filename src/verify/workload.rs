//! What runs in the pods of `cluster verify`: the hidden subcommand `workload serve PORT`, an HTTP server.
//!
//! It answers `/` with its host name, `/fetch/HOST:PORT` with what a GET of `http://HOST:PORT/` gives from
//! where it stands, and `/resolve/NAME` with the addresses that the pod's resolver has for a name. The
//! executable is static: names are resolved by its own code, since libc's needs libraries beside it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::dns;
use crate::error::{Context, Error, Result};

/// How long one connection or one question may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest body that is passed on.
const LONGEST_BODY: u64 = 64 * 1024;

/// Runs the server until it is asked to end.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is the container's log")]
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let port = match words[..] {
        ["serve", port] => port.parse::<u16>().ok(),
        _ => None,
    };
    let Some(port) = port else {
        eprintln!("usage: cluster workload serve PORT");
        return ExitCode::from(2);
    };
    match serve(port) {
        Ok(()) => {
            println!("ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", error.line());
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what it prints is the container's log")]
fn serve(port: u16) -> Result<()> {
    // As the first process of a container it has to ask for the signal that ends it.
    let mut end = SigSet::empty();
    end.add(Signal::SIGTERM);
    end.add(Signal::SIGINT);
    end.thread_block().context("blocking signals")?;
    let listener =
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context(format!("listening on port {port}"))?;
    println!("{} serves port {port}", hostname());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A thread each: a pod may well be asked to fetch from itself through a service.
            std::thread::spawn(move || {
                if let Err(error) = answer(&stream) {
                    println!("{}", error.line());
                }
            });
        }
    });
    end.wait().context("waiting to be ended")?;
    Ok(())
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "unknown".into(), |name| name.to_string_lossy().into_owned())
}

fn answer(mut stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request).context("reading a request")?;
    let mut header = String::new();
    while reader.read_line(&mut header).context("reading a request")? > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or("/");
    let path = path.split('?').next().unwrap_or(path);
    let outcome = match path.trim_start_matches('/').split_once('/') {
        None => Ok(hostname()),
        Some(("fetch", target)) => target_of(target).and_then(|target| get(target, PATIENCE)),
        Some(("resolve", name)) => lookup(name)
            .map(|addresses| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        Some(_) => Err(Error::user(format!("there is nothing at {path}"))),
    };
    let (status, body) = match outcome {
        Ok(body) => ("200 OK", body),
        Err(error) => ("502 Bad Gateway", error.line()),
    };
    let length = body.len() + 1;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}\n"
    )
    .context("answering")
}

fn target_of(target: &str) -> Result<SocketAddr> {
    let (host, port) = target.split_once(':').unwrap_or((target, "80"));
    let port = port.parse().context(format!("{target:?} has no port"))?;
    let address = match host.parse::<Ipv4Addr>() {
        Ok(address) => address,
        Err(_) => *lookup(host)?.first().context(format!("{host} has no address"))?,
    };
    Ok(SocketAddr::new(address.into(), port))
}

/// Returns what a GET of `/` at `target` gives.
///
/// # Errors
/// When nobody answers in time, or with another status than 200.
pub(crate) fn get(target: SocketAddr, patience: Duration) -> Result<String> {
    let doing = || format!("http://{target}/");
    let mut stream = TcpStream::connect_timeout(&target, patience).context(doing())?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").context(doing())?;
    let mut text = String::new();
    stream.take(LONGEST_BODY).read_to_string(&mut text).context(doing())?;
    let (head, body) = text.split_once("\r\n\r\n").context(format!("{} gave no answer", doing()))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status == "200" {
        Ok(body.trim().to_owned())
    } else {
        Err(Error::user(format!("{} answered {status}: {}", doing(), body.trim())))
    }
}

/// Resolves a name as the pod's /etc/resolv.conf says: with its search domains.
fn lookup(name: &str) -> Result<Vec<Ipv4Addr>> {
    let text = fs_err::read_to_string("/etc/resolv.conf")?;
    let resolver = Resolver::parse(&text);
    let server = resolver.server.context("/etc/resolv.conf names no server")?;
    let mut last = Error::user(format!("{name} was not asked for"));
    for candidate in resolver.candidates(name) {
        match dns::lookup(SocketAddr::new(server.into(), 53), &candidate, PATIENCE) {
            Ok(addresses) => return Ok(addresses),
            Err(error) => last = error.within(candidate),
        }
    }
    Err(last)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    server: Option<Ipv4Addr>,
    searches: Vec<String>,
    dots: usize,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self { dots: 1, ..Self::default() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    resolver.server = resolver.server.or_else(|| words.next()?.parse().ok());
                }
                Some("search") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => {
                    if let Some(dots) = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok()) {
                        resolver.dots = dots;
                    }
                }
                _ => {}
            }
        }
        resolver
    }

    /// Returns the names to try, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let searched = self.searches.iter().map(|domain| format!("{name}.{domain}"));
        if name.matches('.').count() >= self.dots {
            std::iter::once(name.to_owned()).chain(searched).collect()
        } else {
            searched.chain([name.to_owned()]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_as_the_resolver_says() {
        let text = "search a.svc.cluster.local svc.cluster.local\nnameserver 10.3.0.10\noptions ndots:5\n";
        let resolver = Resolver::parse(text);
        assert_eq!(resolver.server, Some(Ipv4Addr::new(10, 3, 0, 10)));
        assert_eq!(resolver.candidates("web"), ["web.a.svc.cluster.local", "web.svc.cluster.local", "web"]);
        assert_eq!(resolver.candidates("web."), ["web."]);
        assert_eq!(resolver.candidates("a.b.c.d.e.f")[0], "a.b.c.d.e.f");
    }

    #[test]
    fn a_server_answers_with_its_host_name_and_fetches_for_others() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(&stream).unwrap());
            }
        });
        assert_eq!(get(address, PATIENCE).unwrap(), hostname());
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /fetch/{address} HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 OK") && text.ends_with(&format!("\n{}\n", hostname())),
            "{text}"
        );
    }
}
