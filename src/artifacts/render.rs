//! Renders the templates that are built into the executable.

use std::sync::LazyLock;

use tera::{Kwargs, State, TeraResult, Value};

use crate::error::{Context, Error, Result};

/// The templates, by the name that [`render`] takes.
const TEMPLATES: [(&str, &str); 19] = [
    ("kubeconfig.yaml", include_str!("../../templates/kubeconfig.yaml.tera")),
    ("unit.service", include_str!("../../templates/unit.service.tera")),
    ("pods.service", include_str!("../../templates/pods.service.tera")),
    ("trust.service", include_str!("../../templates/trust.service.tera")),
    ("Vagrantfile", include_str!("../../templates/Vagrantfile.tera")),
    ("machine.yaml", include_str!("../../ignition/machine.yaml.tera")),
    ("node.network", include_str!("../../ignition/files/node.network.tera")),
    ("pods.network", include_str!("../../ignition/files/pods.network.tera")),
    ("networkd.conf", include_str!("../../ignition/files/networkd.conf.tera")),
    ("node.nmconnection", include_str!("../../ignition/files/node.nmconnection.tera")),
    ("networkmanager.conf", include_str!("../../ignition/files/networkmanager.conf.tera")),
    ("flatcar-update.conf", include_str!("../../ignition/files/flatcar-update.conf.tera")),
    ("zincati.toml", include_str!("../../ignition/files/zincati.toml.tera")),
    ("sysctl.conf", include_str!("../../ignition/files/sysctl.conf.tera")),
    ("modules.conf", include_str!("../../ignition/files/modules.conf.tera")),
    ("containerd.toml", include_str!("../../ignition/files/containerd.toml.tera")),
    ("containerd-config.conf", include_str!("../../ignition/files/containerd-config.conf.tera")),
    ("proxy.env", include_str!("../../ignition/files/proxy.env.tera")),
    ("proxy.conf", include_str!("../../ignition/files/proxy.conf.tera")),
];

/// The templates, read once: a cluster of a hundred machines renders a thousand times.
static TERA: LazyLock<std::result::Result<tera::Tera, String>> = LazyLock::new(|| {
    let mut tera = tera::Tera::default();
    // Both forms quote a string so that nothing in it can end it early.
    tera.register_filter("json", json);
    tera.register_filter("ruby", ruby);
    tera.add_raw_templates(TEMPLATES).map_err(|error| error.to_string())?;
    tera.autoescape_on(Vec::<&str>::new());
    Ok(tera)
});

/// Renders a template. A variable that is not there is an error.
pub(crate) fn render(name: &str, values: &tera::Context) -> Result<String> {
    let tera =
        TERA.as_ref().map_err(|error| Error::internal(format!("reading the built-in templates: {error}")))?;
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
