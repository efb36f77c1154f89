//! Which form a response takes: the `Accept` header against what can be made.

use http::HeaderMap;
use http::header::ACCEPT;

/// The encoding of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

/// What is made of an object before it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The object itself.
    Native,
    /// A `Table` of `meta.k8s.io/v1` or `v1beta1`.
    Table(&'static str),
    /// `PartialObjectMetadata` of `meta.k8s.io/v1` or `v1beta1`; of a list its list.
    Partial(&'static str),
}

/// A form that the client takes and the server can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
}

impl Form {
    pub(crate) const JSON: Self = Self { format: Format::Json, shape: Shape::Native };
    pub(crate) const PROTOBUF: Self = Self { format: Format::Protobuf, shape: Shape::Native };
}

impl Format {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// The media types that are offered, for the text of a 406.
pub(crate) const OFFERED: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
/// The same for watches: YAML cannot be cut into events.
pub(crate) const OFFERED_STREAMS: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// What can be made of the thing that is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Offer {
    /// The thing itself in protobuf.
    pub(crate) protobuf: bool,
    /// A table or partial metadata; the latter in protobuf, too.
    pub(crate) shapes: bool,
    /// The answer is a stream of events.
    pub(crate) stream: bool,
}

impl Offer {
    /// An answer that is no object of a resource, such as a failure.
    pub(crate) const PLAIN: Self = Self { protobuf: true, shapes: false, stream: false };

    fn makes(self, form: Form) -> bool {
        match (form.shape, form.format) {
            (Shape::Native, Format::Protobuf) => self.protobuf,
            (_, Format::Yaml) if self.stream => false,
            (Shape::Native, _) => true,
            // Tables are not made for machines, and have no protobuf encoding.
            (Shape::Table(_), Format::Protobuf) => false,
            (Shape::Table(_) | Shape::Partial(_), _) => self.shapes,
        }
    }
}

/// One media range of an `Accept` header.
struct Range<'a> {
    media: String,
    parameters: Vec<(&'a str, &'a str)>,
    /// In thousandths.
    quality: u16,
}

/// Chooses the form that the client likes best among those that can be made; `None` is a 406.
pub(crate) fn choose(headers: &HeaderMap, offer: Offer) -> Option<Form> {
    let mut ranges: Vec<Range<'_>> = headers
        .get_all(ACCEPT)
        .iter()
        .flat_map(|header| header.to_str().unwrap_or_default().split(','))
        .filter(|range| !range.trim().is_empty())
        .map(Range::parse)
        .collect();
    if ranges.is_empty() {
        return Some(Form::JSON);
    }
    // Of equals, those that say more come first, then as the client listed them.
    ranges.sort_by_key(|range| (std::cmp::Reverse(range.quality), range.wildcards()));
    ranges.iter().filter(|range| range.quality > 0).find_map(|range| range.form(offer))
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut parameters, mut quality) = (Vec::new(), 1000);
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            if key == "q" {
                quality = thousandths(value);
            } else {
                parameters.push((key, value));
            }
        }
        Self { media, parameters, quality }
    }

    fn wildcards(&self) -> usize {
        self.media.matches('*').count()
    }

    fn form(&self, offer: Offer) -> Option<Form> {
        let format = match self.media.as_str() {
            "application/json" | "*/*" | "application/*" => Format::Json,
            "application/yaml" => Format::Yaml,
            "application/vnd.kubernetes.protobuf" => Format::Protobuf,
            _ => return None,
        };
        let parameter = |name: &str| {
            self.parameters
                .iter()
                .find(|(key, value)| *key == name && !value.is_empty())
                .map(|(_, value)| *value)
        };
        if parameter("stream").is_some_and(|stream| stream != "watch" || format == Format::Yaml) {
            return None;
        }
        let meta = match parameter("v") {
            Some("v1") => "v1",
            Some("v1beta1") => "v1beta1",
            _ => "",
        };
        let shape = match parameter("as") {
            // A group or version without a kind is no object that could be made.
            None if parameter("g").is_some() || parameter("v").is_some() => return None,
            None => Shape::Native,
            Some(_) if parameter("g") != Some("meta.k8s.io") || meta.is_empty() => return None,
            Some("Table") => Shape::Table(meta),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Shape::Partial(meta),
            Some(_) => return None,
        };
        Some(Form { format, shape }).filter(|form| offer.makes(*form))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value lies in 0..=1000")]
fn thousandths(text: &str) -> u16 {
    text.parse::<f32>().map_or(1000, |quality| (quality.clamp(0.0, 1.0) * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_form_that_can_be_made_is_chosen() {
        let table = Some(Form { format: Format::Json, shape: Shape::Table("v1") });
        let yaml = Some(Form { format: Format::Yaml, shape: Shape::Native });
        let cases = [
            ("", Some(Form::JSON)),
            ("*/*", Some(Form::JSON)),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                table,
            ),
            ("application/json;q=0.5, application/yaml", yaml),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::JSON)),
            ("application/json;as=Table;v=v2;g=meta.k8s.io", None),
            ("text/html", None),
            ("application/cbor, application/json;q=0.1", Some(Form::JSON)),
            ("application/json;q=0", None),
            ("*/*, application/yaml", yaml),
            ("application/yaml;q=0.9, */*;q=0.8", yaml),
            ("application/json;as=Table;g=meta.k8s.io;v=v1;q=0.1, application/yaml;q=0.2", yaml),
            ("application/json;stream=watch", Some(Form::JSON)),
            ("application/json;stream=other", None),
            ("application/json; charset=utf-8", Some(Form::JSON)),
            ("APPLICATION/JSON", Some(Form::JSON)),
            ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", None),
        ];
        for (header, expect) in cases {
            let mut headers = HeaderMap::new();
            if !header.is_empty() {
                headers.insert(ACCEPT, header.parse().unwrap());
            }
            let offer = Offer { protobuf: false, shapes: true, stream: false };
            assert_eq!(choose(&headers, offer), expect, "{header}");
        }
    }

    #[test]
    fn protobuf_is_made_where_it_can_be() {
        const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
        let form = |format, shape| Some(Form { format, shape });
        let everything = Offer { protobuf: true, shapes: true, stream: false };
        let custom = Offer { protobuf: false, ..everything };
        let stream = Offer { stream: true, ..everything };
        let native = form(Format::Protobuf, Shape::Native);
        let partial = form(Format::Protobuf, Shape::Partial("v1"));
        let table = ";as=Table;g=meta.k8s.io;v=v1";
        let metadata = ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        for (offer, header, expect) in [
            (everything, PROTOBUF.to_owned(), native),
            (everything, format!("{PROTOBUF},application/json"), native),
            (everything, format!("{PROTOBUF};q=0.5,application/json"), Some(Form::JSON)),
            (everything, format!("{PROTOBUF}{table}"), None),
            (everything, format!("{PROTOBUF}{table},application/json"), Some(Form::JSON)),
            (everything, format!("{PROTOBUF}{metadata},application/json{metadata}"), partial),
            (custom, PROTOBUF.to_owned(), None),
            (custom, format!("{PROTOBUF},application/json"), Some(Form::JSON)),
            (custom, format!("{PROTOBUF}{metadata}"), partial),
            (Offer::PLAIN, format!("{PROTOBUF}{metadata}"), None),
            (Offer::PLAIN, PROTOBUF.to_owned(), native),
            (stream, format!("{PROTOBUF};stream=watch"), native),
            (stream, "application/yaml".to_owned(), None),
            (stream, format!("application/json{table}"), form(Format::Json, Shape::Table("v1"))),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, header.parse().unwrap());
            assert_eq!(choose(&headers, offer), expect, "{header} {offer:?}");
        }
    }
}
