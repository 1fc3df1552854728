//! `xen-replicate convert`.

use super::image_options::ImageArgs;
use super::output::OutputArgs;
use clap::{Args as ClapArgs, ValueEnum};
use std::io::{self, BufWriter, IsTerminal};
use xen_domain_image::plain::{self, Container};

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Write it even where a receiver refuses FILE, and so what is made of it
    #[arg(long)]
    force: bool,
    /// What stands around the records; as in FILE otherwise
    #[arg(long, value_enum, value_name = "CONTAINER")]
    container: Option<ContainerArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ContainerArg {
    /// As `xl save` writes it
    Xl,
    /// A libxl stream
    Libxl,
    /// libxc's stream alone, without device models
    Libxc,
}

/// Runs the command.
pub fn run(args: &Args) -> io::Result<bool> {
    let image = args.image.open(!args.force)?;
    let container = match args.container {
        None => Container::of(&image),
        Some(ContainerArg::Xl) => Container::Xl,
        Some(ContainerArg::Libxl) => Container::Libxl,
        Some(ContainerArg::Libxc) => Container::Libxc,
    };
    let written = match &args.output.output {
        Some(path) => args.output.to_file(path, |file| plain::write(&image, container, file)),
        None if io::stdout().is_terminal() => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an image is not for a terminal: -o FILE, or a pipe",
            ));
        }
        None => plain::write(&image, container, BufWriter::new(io::stdout().lock())),
    };
    written.map_err(|error| args.image.trouble(error))?;
    Ok(true)
}
