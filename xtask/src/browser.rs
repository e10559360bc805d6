//! Finds Chromium, its driver and axe-core for the tests of the console, or installs them.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::process::find_program;
use crate::{apt, toolchains};

/// The font is for machines without any: Chromium would draw boxes.
const DEBIAN_PACKAGES: [&str; 3] = ["chromium", "chromium-driver", "fonts-dejavu-core"];

/// What the tests of the console need.
pub struct Browser {
    chromium: PathBuf,
    driver: PathBuf,
    axe: PathBuf,
}

impl Browser {
    pub fn find() -> Result<Browser> {
        let (chromium, driver) = programs()?;
        let axe = toolchains::axe()?;
        Ok(Browser {
            chromium,
            driver,
            axe,
        })
    }

    pub fn set(&self, command: &mut Command) {
        command
            .env("KVASM_CHROMIUM", &self.chromium)
            .env("KVASM_CHROMEDRIVER", &self.driver)
            .env("KVASM_AXE", &self.axe);
    }
}

fn programs() -> Result<(PathBuf, PathBuf)> {
    if let Some(found) = installed() {
        return Ok(found);
    }
    let why = match env::var_os("KVASM_NO_INSTALL") {
        Some(_) => "KVASM_NO_INSTALL is set".to_owned(),
        None => match apt::install(&DEBIAN_PACKAGES) {
            Ok(()) => return installed().context("apt-get installed no chromium and chromedriver"),
            Err(why) => why,
        },
    };
    Err(anyhow!(
        "the tests of the console need chromium and chromedriver, which are not in PATH and cannot \
         be installed ({why}): on Debian, `apt-get install {}`",
        DEBIAN_PACKAGES.join(" ")
    ))
}

fn installed() -> Option<(PathBuf, PathBuf)> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let chromium = names.into_iter().find_map(find_program)?;
    Some((chromium, find_program("chromedriver")?))
}
