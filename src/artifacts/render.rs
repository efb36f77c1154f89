//! Renders the templates that are built into the executable.

use tera::{Kwargs, State, TeraResult, Value};

use crate::error::{Context, Result};

/// The templates, by the name that [`render`] takes.
const TEMPLATES: [(&str, &str); 4] = [
    ("kubeconfig.yaml", include_str!("../../templates/kubeconfig.yaml.tera")),
    ("machine.yaml", include_str!("../../ignition/machine.yaml.tera")),
    ("unit.service", include_str!("../../templates/unit.service.tera")),
    ("Vagrantfile", include_str!("../../templates/Vagrantfile.tera")),
];

/// Renders a template. A variable that is not there is an error.
pub(crate) fn render(name: &str, values: &tera::Context) -> Result<String> {
    let mut tera = tera::Tera::default();
    // Both forms quote a string so that nothing in it can end it early.
    tera.register_filter("json", json);
    tera.register_filter("ruby", ruby);
    tera.add_raw_templates(TEMPLATES).context("reading the built-in templates")?;
    tera.autoescape_on(Vec::<&str>::new());
    tera.render(name, values).context(format!("rendering {name}"))
}

/// Writes a value as JSON, which is also YAML.
fn json(value: &Value, _: Kwargs, _: &State<'_>) -> TeraResult<String> {
    serde_json::to_string(value).map_err(|error| tera::Error::message(error.to_string()))
}

/// Writes a string as Ruby does between double quotes.
fn ruby(value: &Value, arguments: Kwargs, state: &State<'_>) -> TeraResult<String> {
    // JSON's escapes are Ruby's; only interpolation is Ruby's own.
    json(value, arguments, state)
        .map(|text| text.replace("#{", "\\#{").replace("#$", "\\#$").replace("#@", "\\#@"))
}
