//! Renders the templates that are built into the executable.

use crate::error::{Context, Result};

/// The templates, by the name that [`render`] takes.
const TEMPLATES: [(&str, &str); 1] =
    [("kubeconfig.yaml", include_str!("../../templates/kubeconfig.yaml.tera"))];

/// Renders a template. A variable that is not there is an error.
pub(crate) fn render(name: &str, values: &tera::Context) -> Result<String> {
    let mut tera = tera::Tera::default();
    tera.add_raw_templates(TEMPLATES).context("reading the built-in templates")?;
    tera.autoescape_on(Vec::<&str>::new());
    tera.render(name, values).context(format!("rendering {name}"))
}
