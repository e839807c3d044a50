//! From a tool's folder to its component: built by its language, stripped, with the folder's manifest in it.

use super::{
    Language, Project, install, process, rust, sections,
    step::{in_folder, step_with},
};
use anyhow::{Context as _, bail};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A component that was built.
pub(crate) struct Built {
    /// Where it is.
    pub(crate) file: PathBuf,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// What stripping took away, in bytes.
    pub(crate) stripped: u64,
}

/// Builds the component of a folder. Dropped, it stops the compiler, and the component is the one before or the new one.
pub(crate) async fn build(project: &Project) -> anyhow::Result<Built> {
    let made = match project.language {
        Language::Rust => Made::ByCargo(rust::build(&project.dir).await?),
        Language::Js | Language::Python | Language::C | Language::Go => by_script(project).await?,
    };
    let bytes = fs::read(made.path()).with_context(|| format!("cannot read {}", made.path().display()))?;
    let finished = sections::finish(&bytes, &project.text)
        .with_context(|| format!("{} was built, but can't be used", project.component().display()))?;
    let file = project.component();
    write_atomically(&file, &finished)?;
    Ok(Built {
        file,
        size: finished.len() as u64,
        stripped: (bytes.len() as u64).saturating_sub(finished.len() as u64),
    })
}

/// Runs the tests of a folder, as its language does; whether they passed.
pub(crate) async fn test(project: &Project) -> anyhow::Result<bool> {
    let words: &[&str] = match project.language {
        Language::Rust => return rust::test(&project.dir).await,
        _ if project.dir.join("test.sh").is_file() => &["sh", "test.sh"],
        Language::Js => &["npm", "test"],
        Language::Python => &["python3", "-m", "unittest"],
        Language::Go => &["go", "test", "./..."],
        Language::C => bail!(
            "a tool in {} is tested by {}, which is not there; or say what to call: `fumehood tool dev -- TOOL JSON`",
            project.language,
            project.dir.join("test.sh").display()
        ),
    };
    install::ready(project.language, &project.dir).await?;
    let mut command = in_folder(&project.dir, words)?;
    Ok(process::run(&mut command).await?.success())
}

/// What a build made.
enum Made {
    /// The file that cargo named.
    ByCargo(PathBuf),
    /// The file that the script was told to write, removed with this.
    Apart(tempfile::TempPath),
    /// The component itself, written in its place.
    InPlace(PathBuf),
}

impl Made {
    fn path(&self) -> &Path {
        match self {
            Self::ByCargo(path) | Self::InPlace(path) => path,
            Self::Apart(path) => path,
        }
    }
}

/// Has the folder's own build make it, with what it needs and the machine lacks installed in the folder.
///
/// The build is told where to leave the component: a file that was not there before, in the component's own folder. One that writes
/// to `NAME.wasm` all the same has to have written it, or it would be that of an earlier build.
async fn by_script(project: &Project) -> anyhow::Result<Made> {
    let (language, dir) = (project.language, &*project.dir);
    install::ready(language, dir).await?;
    let words: &[&str] = if dir.join("build.sh").exists() {
        &["sh", "build.sh"]
    } else if language == Language::Js {
        &["npm", "run", "build"]
    } else {
        bail!(
            "a tool in {language} is built by {}, which is not there: write one that leaves the component in the file that the variable \
             {COMPONENT} names, or take that of `fumehood tool new NAME --lang {language}`",
            dir.join("build.sh").display()
        );
    };
    let component = project.component();
    let apart = tempfile::TempPath::try_from_path(unfinished(&component, "built"))?;
    // Of an earlier process of this number.
    let _ = fs::remove_file(&apart);
    let before = Written::now(&component);
    step_with(dir, words, &[(COMPONENT, &apart)]).await?;
    if apart.is_file() {
        return Ok(Made::Apart(apart));
    }
    let shown = component.display();
    match Written::now(&component) {
        None => bail!("the build left no {shown}: let it write to the file that the variable {COMPONENT} names"),
        after if after == before => bail!(
            "the build did not write {shown}, which is of an earlier build: let it write to the file that the variable {COMPONENT} names"
        ),
        Some(_) => Ok(Made::InPlace(component)),
    }
}

/// Tells a build where to leave the component.
const COMPONENT: &str = "COMPONENT";

/// What tells that a file was written: it is another one, or of another time or size.
#[derive(PartialEq, Eq)]
struct Written {
    file: u64,
    modified: SystemTime,
    len: u64,
}

impl Written {
    fn now(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            file: metadata.ino(),
            modified: metadata.modified().ok()?,
            len: metadata.len(),
        })
    }
}

/// A file beside another that nobody takes for it.
fn unfinished(file: &Path, what: &str) -> PathBuf {
    file.with_extension(format!("wasm.{}.{what}.partial", std::process::id()))
}

/// Whoever reads the file meanwhile has the component before or the new one.
fn write_atomically(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let unfinished = unfinished(file, "finished");
    let written = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, file));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written.with_context(|| format!("cannot write {}", file.display()))
}
