//! Certificates and keys: made when missing, kept when still right.
//!
//! The directory they live in is the seed of a cluster: the same spec and the same directory give the same
//! bytes. A certificate is issued anew only when what it says changes, its authority does, or it expires soon.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::error::{Context, Error, Result};
use crate::plan::{Authority, Certificate, Plan, Usage};
use crate::spec::EtcdCertificates;

/// Days that the authority lasts: ten years.
const AUTHORITY_DAYS: i64 = 3650;
/// Days that every other certificate lasts.
const DAYS: i64 = 365;
/// A certificate with fewer days left is issued anew by the next `up`.
const RENEW_DAYS: i64 = 30;

/// A certificate and its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The certificate.
    pub(crate) certificate: String,
    /// The key, PKCS #8.
    pub(crate) key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// All certificates and keys of a cluster.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pki {
    /// The cluster's authority.
    pub(crate) authority: Pair,
    /// The key that signs service account tokens.
    pub(crate) service_account_key: String,
    /// The certificates of the other authorities; their keys stay where they are.
    others: BTreeMap<Authority, String>,
    pairs: BTreeMap<String, Pair>,
}

impl Pki {
    /// Returns the certificate with this name.
    pub(crate) fn pair(&self, name: &str) -> Result<&Pair> {
        self.pairs.get(name).ok_or_else(|| Error::internal(format!("certificate {name} is not in the plan")))
    }

    /// Returns the certificate of an authority.
    pub(crate) fn certificate_of(&self, authority: Authority) -> Result<&str> {
        if authority == Authority::Cluster {
            return Ok(&self.authority.certificate);
        }
        let found = self.others.get(&authority).map(String::as_str);
        found.ok_or_else(|| Error::internal(format!("{} signs nothing in the plan", authority.file())))
    }
}

/// Makes what is missing in `directory`, takes what the spec names for an etcd of somebody else, and returns
/// everything, with the number of certificates issued.
///
/// # Errors
/// When a file cannot be read or written, or holds something else than it should.
pub(crate) fn of_plan(directory: &Path, plan: &Plan, now: Timestamp) -> Result<(Pki, usize)> {
    let given = plan.spec.etcd.as_ref().and_then(|etcd| etcd.certificates.as_ref());
    let given = given.map(given_etcd).transpose()?;
    let (mut pki, issued) = ensure(directory, &plan.certificates, now)?;
    if let Some((authority, client)) = given {
        pki.others.insert(Authority::Etcd, authority);
        pki.pairs.insert("apiserver-etcd-client".into(), client);
    }
    Ok((pki, issued))
}

/// Reads the files of mutual TLS with an etcd that somebody else runs: the authority, and certificate and key.
fn given_etcd(files: &EtcdCertificates) -> Result<(String, Pair)> {
    let EtcdCertificates { authority, certificate, key } = files;
    let read = |path: &Path, what: &str| -> Result<String> {
        let text = fs_err::read_to_string(path).context(format!("reading etcd's {what}"))?;
        let blocks = x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()).next();
        let label = blocks.and_then(Result::ok).map(|block| block.label).unwrap_or_default();
        let wanted = if what == "key" { label.ends_with("PRIVATE KEY") } else { label == "CERTIFICATE" };
        if !wanted {
            return Err(Error::user(format!("{} is not etcd's {what} in PEM", path.display()))
                .hint("etcd.certificates of the spec names PEM files: authority, certificate and key"));
        }
        Ok(text)
    };
    let pair = Pair { certificate: read(certificate, "certificate")?, key: read(key, "key")? };
    let own = KeyPair::from_pem(&pair.key).map(|key| key.public_key_raw().to_vec());
    let shown = with_certificate(&pair.certificate, |certificate| {
        certificate.public_key().subject_public_key.data.to_vec()
    })?;
    // A kind of key that is not known here is left to the API server, which says so.
    if own.is_ok_and(|own| own != shown) {
        return Err(Error::user(format!("{} is not the key of {}", key.display(), certificate.display())));
    }
    Ok((read(authority, "authority")?, pair))
}

/// Makes what is missing in `directory` and returns everything, with the number of certificates issued.
///
/// # Errors
/// When a file cannot be read or written, or holds something else than it should.
pub(crate) fn ensure(directory: &Path, wanted: &[Certificate], now: Timestamp) -> Result<(Pki, usize)> {
    let mut issued = 0;
    let mut signers: BTreeSet<Authority> = wanted.iter().map(|certificate| certificate.authority).collect();
    signers.insert(Authority::Cluster);
    let mut authorities = BTreeMap::new();
    for signer in signers {
        let name = signer.file();
        let reading = format!("reading {name}.crt");
        let pair = match read_pair(directory, name)? {
            Some(pair) if days_left(&pair.certificate, now).context(&reading)? > RENEW_DAYS => pair,
            _ => {
                issued += 1;
                let pair = new_authority(signer, now)?;
                write_pair(directory, name, &pair)?;
                pair
            }
        };
        let key = KeyPair::from_pem(&pair.key).context(format!("reading {name}.key"))?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key).context(&reading)?;
        authorities.insert(signer, (pair, issuer));
    }
    let service_account_key = match read(directory, "service-account.key")? {
        Some(key) => key,
        None => {
            let key = KeyPair::generate().context("making service-account.key")?.serialize_pem();
            write(directory, "service-account.key", &key, machinery::files::PRIVATE)?;
            key
        }
    };
    let mut pairs = BTreeMap::new();
    for certificate in wanted {
        let name = &certificate.name;
        let (authority, issuer) =
            authorities.get(&certificate.authority).context("there is no such authority")?;
        let pair = match read_pair(directory, name)? {
            Some(pair) if still_right(&pair, certificate, authority, now) => pair,
            _ => {
                issued += 1;
                let pair = issue(certificate, issuer, now).context(format!("issuing {name}.crt"))?;
                write_pair(directory, name, &pair)?;
                pair
            }
        };
        pairs.insert(name.clone(), pair);
    }
    let (authority, _) = authorities.remove(&Authority::Cluster).context("there is no authority")?;
    let others = authorities.into_iter().map(|(signer, (pair, _))| (signer, pair.certificate)).collect();
    Ok((Pki { authority, service_account_key, others, pairs }, issued))
}

fn read(directory: &Path, name: &str) -> Result<Option<String>> {
    match fs_err::read_to_string(directory.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_pair(directory: &Path, name: &str) -> Result<Option<Pair>> {
    let certificate = read(directory, &format!("{name}.crt"))?;
    let key = read(directory, &format!("{name}.key"))?;
    Ok(certificate.zip(key).map(|(certificate, key)| Pair { certificate, key }))
}

fn write(directory: &Path, name: &str, text: &str, mode: u32) -> Result<()> {
    machinery::files::replace(&directory.join(name), text.as_bytes(), mode).context(format!("writing {name}"))
}

/// Writes the key first: a certificate without its key would be taken for whole.
fn write_pair(directory: &Path, name: &str, pair: &Pair) -> Result<()> {
    write(directory, &format!("{name}.key"), &pair.key, machinery::files::PRIVATE)?;
    write(directory, &format!("{name}.crt"), &pair.certificate, machinery::files::PUBLIC)
}

/// Sets the days between which a certificate holds: from yesterday, since clocks of machines differ.
fn validity(params: &mut CertificateParams, now: Timestamp, days: i64) -> Result<()> {
    let day = |offset: i64| {
        let date = now.to_zoned(TimeZone::UTC).date();
        date.checked_add(jiff::Span::new().days(offset)).context("counting days")
    };
    let at = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(
            i32::from(date.year()),
            u8::try_from(date.month()).unwrap_or(1),
            u8::try_from(date.day()).unwrap_or(1),
        )
    };
    params.not_before = at(day(-1)?);
    params.not_after = at(day(days)?);
    Ok(())
}

fn new_authority(signer: Authority, now: Timestamp) -> Result<Pair> {
    let key = KeyPair::generate().context(format!("making {}.key", signer.file()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, signer.common_name());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, now, AUTHORITY_DAYS)?;
    let certificate = params.self_signed(&key).context(format!("making {}.crt", signer.file()))?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn issue(wanted: &Certificate, issuer: &Issuer<'_, KeyPair>, now: Timestamp) -> Result<Pair> {
    let Certificate { name: _, common_name, organizations, dns_names, addresses, usage, authority: _ } =
        wanted;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for organization in organizations {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, common_name.as_str());
    for name in dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.subject_alt_names.extend(addresses.iter().map(|&address| SanType::IpAddress(address)));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match usage {
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, DAYS)?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn with_certificate<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|error| Error::user(format!("it is not PEM: {error}")))?;
    let (_, certificate) = X509Certificate::from_der(&block.contents)
        .map_err(|error| Error::user(format!("it is not a certificate: {error}")))?;
    Ok(look(&certificate))
}

fn days_left(pem: &str, now: Timestamp) -> Result<i64> {
    with_certificate(pem, |certificate| {
        (certificate.validity().not_after.timestamp() - now.as_second()) / (24 * 3600)
    })
}

/// Returns whether a certificate says what it should, is signed by the authority and lasts.
fn still_right(pair: &Pair, wanted: &Certificate, authority: &Pair, now: Timestamp) -> bool {
    let lasting = days_left(&pair.certificate, now).is_ok_and(|days| days > RENEW_DAYS);
    let says = with_certificate(&pair.certificate, said);
    let signed = with_certificate(&authority.certificate, |authority| {
        with_certificate(&pair.certificate, |certificate| {
            certificate.verify_signature(Some(authority.public_key())).is_ok()
        })
        .unwrap_or(false)
    });
    let Ok(key) = KeyPair::from_pem(&pair.key) else { return false };
    let own_key = with_certificate(&pair.certificate, |certificate| {
        certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
    });
    lasting
        && signed.unwrap_or(false)
        && own_key.unwrap_or(false)
        && says.is_ok_and(|says| {
            says == Said {
                common_name: wanted.common_name.clone(),
                organizations: wanted.organizations.clone(),
                dns_names: wanted.dns_names.clone(),
                addresses: wanted.addresses.clone(),
                server: wanted.usage != Usage::Client,
                client: wanted.usage != Usage::Server,
            }
        })
}

/// What a certificate says about its holder.
#[derive(PartialEq, Eq)]
struct Said {
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    addresses: Vec<IpAddr>,
    server: bool,
    client: bool,
}

fn said(certificate: &X509Certificate<'_>) -> Said {
    let subject = certificate.subject();
    let mut said = Said {
        common_name: subject.iter_common_name().filter_map(|name| name.as_str().ok()).collect(),
        organizations: subject
            .iter_organization()
            .filter_map(|name| name.as_str().ok().map(str::to_owned))
            .collect(),
        dns_names: Vec::new(),
        addresses: Vec::new(),
        server: false,
        client: false,
    };
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(name) => said.dns_names.push((*name).to_owned()),
                        GeneralName::IPAddress(bytes) => {
                            if let Ok(octets) = <[u8; 4]>::try_from(*bytes) {
                                said.addresses.push(octets.into());
                            } else if let Ok(octets) = <[u8; 16]>::try_from(*bytes) {
                                said.addresses.push(octets.into());
                            }
                        }
                        _ => {}
                    }
                }
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                (said.server, said.client) = (usage.server_auth, usage.client_auth);
            }
            _ => {}
        }
    }
    said
}

/// A day that tests stand on.
#[cfg(test)]
pub(crate) const TEST_NOW: Timestamp = Timestamp::constant(1_700_000_000, 0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::plan;
    use crate::spec::{check, parse};
    use std::collections::BTreeMap;

    fn wanted(spec: &str) -> Vec<Certificate> {
        plan(&check(&parse(spec).unwrap()).unwrap()).certificates
    }

    fn bytes(directory: &Path) -> BTreeMap<String, Vec<u8>> {
        std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect()
    }

    #[test]
    fn a_second_run_changes_no_byte() {
        let directory = tempfile::tempdir().unwrap();
        let (first, issued) = ensure(directory.path(), &wanted(""), TEST_NOW).unwrap();
        assert_eq!(issued, 10);
        let before = bytes(directory.path());
        let (second, issued) = ensure(directory.path(), &wanted(""), TEST_NOW).unwrap();
        assert_eq!(issued, 0);
        assert!(first == second);
        assert_eq!(before, bytes(directory.path()));
    }

    #[test]
    fn only_what_changed_is_issued_anew() {
        let directory = tempfile::tempdir().unwrap();
        ensure(directory.path(), &wanted(""), TEST_NOW).unwrap();
        let (_, issued) = ensure(directory.path(), &wanted("workers: { count: 2 }"), TEST_NOW).unwrap();
        assert_eq!(issued, 2, "a worker brings a client and a serving certificate");
        let (_, issued) =
            ensure(directory.path(), &wanted("network: { domain: example.org }"), TEST_NOW).unwrap();
        assert_eq!(issued, 1, "the API server's certificate names the domain");
    }

    #[test]
    fn certificates_are_issued_anew_before_they_expire() {
        let directory = tempfile::tempdir().unwrap();
        ensure(directory.path(), &wanted(""), TEST_NOW).unwrap();
        let later = TEST_NOW + jiff::SignedDuration::from_hours(24 * 340);
        let (_, issued) = ensure(directory.path(), &wanted(""), later).unwrap();
        assert_eq!(issued, 8, "all but the authorities");
    }

    #[test]
    fn a_key_that_does_not_belong_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        ensure(directory.path(), &wanted(""), TEST_NOW).unwrap();
        std::fs::copy(directory.path().join("m1-client.key"), directory.path().join("admin.key")).unwrap();
        let (_, issued) = ensure(directory.path(), &wanted(""), TEST_NOW).unwrap();
        assert_eq!(issued, 1);
    }
}
