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

/// Chooses the form that the client likes best among those that can be made; `None` is a 406.
/// `protobuf` says whether that encoding can be made of what is asked for; `shapes`, whether a table or
/// partial metadata can.
pub(crate) fn choose(headers: &HeaderMap, protobuf: bool, shapes: bool) -> Option<Form> {
    let mut ranges: Vec<(Form, u16)> = Vec::new();
    let mut any = false;
    for header in headers.get_all(ACCEPT) {
        for range in header.to_str().unwrap_or_default().split(',') {
            if range.trim().is_empty() {
                continue;
            }
            any = true;
            if let Some((form, quality)) = accept(range, protobuf, shapes)
                && quality > 0
            {
                ranges.push((form, quality));
            }
        }
    }
    if !any {
        return Some(Form::JSON);
    }
    // The first of equals, as the client listed them.
    ranges.sort_by_key(|(_, quality)| std::cmp::Reverse(*quality));
    ranges.first().map(|(form, _)| *form)
}

/// Reads one media range; the quality is in thousandths.
fn accept(range: &str, protobuf: bool, shapes: bool) -> Option<(Form, u16)> {
    let mut parts = range.split(';').map(str::trim);
    let format = match parts.next()?.to_ascii_lowercase().as_str() {
        "application/json" | "*/*" | "application/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        "application/vnd.kubernetes.protobuf" if protobuf => Format::Protobuf,
        _ => return None,
    };
    let (mut kind, mut version, mut group, mut quality) = (None, "", "", 1000);
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "as" => kind = Some(value),
            "v" => version = value,
            "g" => group = value,
            "q" => quality = thousandths(value),
            _ => {}
        }
    }
    let meta = match version {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        _ => "",
    };
    let shape = match kind {
        None => Shape::Native,
        Some(_) if !shapes || group != "meta.k8s.io" || meta.is_empty() => return None,
        Some("Table") => Shape::Table(meta),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Shape::Partial(meta),
        Some(_) => return None,
    };
    Some((Form { format, shape }, quality))
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
        ];
        for (header, expect) in cases {
            let mut headers = HeaderMap::new();
            if !header.is_empty() {
                headers.insert(ACCEPT, header.parse().unwrap());
            }
            assert_eq!(choose(&headers, false, true), expect, "{header}");
        }
    }
}
