//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::spec::Overrides;
use crate::ui::Output;

/// Kubernetes clusters on CoreOS machines, or on this Linux machine in a second
#[derive(Debug, Parser)]
#[command(name = "cluster", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The cluster's name [default: the spec's, or lab]
    #[arg(long, global = true, env = "CLUSTER_NAME")]
    pub(crate) name: Option<String>,
    /// Where the state of all clusters is [default: $XDG_STATE_HOME/cluster or ~/.local/state/cluster]
    #[arg(long, global = true, env = "CLUSTER_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The spec [default: cluster.yaml where it exists]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How to answer
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Say nothing but answers and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the cluster, or repair and complete it
    Up(Up),
    /// Take the cluster away
    Down {
        /// Stop the machines, and keep their data for the next up
        #[arg(long)]
        keep: bool,
    },
    /// Replace the executable of every machine, one after the other
    Upgrade(Upgrade),
    /// Add machines to a cluster that runs, or take them out
    Node {
        #[command(subcommand)]
        action: Node,
    },
    /// Add masters to a cluster that runs, take them out, or put new ones in their places
    Master {
        #[command(subcommand)]
        action: Master,
    },
    /// Show the machines, their units and nodes
    Status,
    /// Run a command on a machine, or a shell
    Ssh {
        /// The machine, such as m1 or w1, or its address
        machine: String,
        /// The command; one argument with blanks is given to the shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Print the kubeconfig, or change the user's own
    Kubeconfig {
        #[command(subcommand)]
        action: Option<Kubeconfig>,
    },
    /// Show what up would make
    Plan {
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Write every file that up would make into a directory
    Generate {
        /// Where to; its pki directory is reused
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Prove that the cluster works
    Verify(Verify),
    /// List the clusters of the state directory
    List,
    /// Show the log of a unit of a machine
    Logs {
        /// The machine, such as m1 or w1, or its address
        machine: String,
        /// The unit [default: every unit of the machine]
        #[arg(short, long)]
        unit: Option<String>,
        /// Show what the machine itself said
        #[arg(long, conflicts_with = "unit")]
        console: bool,
        /// Show this many of the last lines only
        #[arg(long, value_name = "N")]
        tail: Option<usize>,
    },
    /// Handle the images of the machines
    Image {
        #[command(subcommand)]
        action: Image,
    },
    /// Print the version
    Version,
}

/// Make the cluster, or repair and complete it
#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) overrides: Overrides,
    #[command(flatten)]
    pub(crate) completion: Completion,
}

/// How a cluster is brought to what its spec says
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// Leave the user's kubeconfig alone
    #[arg(long)]
    pub(crate) no_kubeconfig: bool,
    /// How many seconds the cluster may take to be ready [default: 120; 1200 where machines have to boot]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) wait: Option<u64>,
    /// The executable that machines run [default: this one]
    #[arg(long, value_name = "FILE")]
    pub(crate) node_executable: Option<PathBuf>,
}

/// Replace the executable of every machine, one after the other
#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    /// The executable that machines run [default: this one]
    #[arg(long, value_name = "FILE")]
    pub(crate) node_executable: Option<PathBuf>,
    /// How many seconds one machine may take
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(crate) wait: u64,
}

/// Which machine leaves, and what becomes of its pods
#[derive(Debug, Args)]
pub(crate) struct Leaving {
    /// The machine, such as w2 or m2, or its address
    pub(crate) machine: String,
    /// End pods that no controller makes again
    #[arg(long)]
    pub(crate) force: bool,
}

/// Change the machines of a cluster that runs
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Add workers
    Add {
        /// How many
        #[arg(default_value_t = 1)]
        count: u32,
        #[command(flatten)]
        up: Completion,
    },
    /// Move the pods of a worker elsewhere and take it away
    Remove {
        #[command(flatten)]
        leaving: Leaving,
        /// How many seconds its pods may take to be gone
        #[arg(long, default_value_t = 120, value_name = "SECONDS")]
        wait: u64,
    },
}

/// Change the masters of a cluster that runs
#[derive(Debug, Subcommand)]
pub(crate) enum Master {
    /// Add one master
    Add {
        #[command(flatten)]
        up: Completion,
    },
    /// Take a master away, whether it runs or not
    Remove {
        #[command(flatten)]
        leaving: Leaving,
        #[command(flatten)]
        up: Completion,
    },
    /// Take a master away and add another one
    Replace {
        #[command(flatten)]
        leaving: Leaving,
        #[command(flatten)]
        up: Completion,
    },
}

/// Prove that the cluster works
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Check the cluster of this kubeconfig, whoever made it
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of that kubeconfig
    #[arg(long, requires = "kubeconfig")]
    pub(crate) context: Option<String>,
    /// The image to run [default: one made from this executable]
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// Write a JUnit report
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// How many seconds one check may take
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) wait: u64,
}

/// Change the user's kubeconfig
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Kubeconfig {
    /// Print the cluster's kubeconfig
    Print,
    /// Put the cluster into $KUBECONFIG or ~/.kube/config
    Merge,
    /// Take the cluster out of $KUBECONFIG or ~/.kube/config
    Remove,
}

/// Handle the images of the machines
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Load an image from a docker archive or an OCI layout, as a tar file or a directory
    Load {
        /// The file or directory
        path: PathBuf,
        /// Its name, where the file gives none
        #[arg(long)]
        tag: Option<String>,
    },
    /// List the images
    Ls,
    /// Remove an image
    Rm {
        /// Its name or id
        image: String,
    },
}
