//! The goodput command: that it runs both stacks over the same link and says what the link did, not how fast they are.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Result;

fn goodput(arguments: &str, json: &Path) -> Result<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rawtcp-lab"));
    command.arg("goodput").args(arguments.split_whitespace()).arg("--json").arg(json);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&std::fs::read(json)?)?)
}

pub(crate) fn compares_on_one_link_and_goes_on_from_a_file() -> Result {
    let json = std::env::temp_dir().join(format!("rawtcp-goodput-{}.json", std::process::id()));
    let grid = "--part grid --rtt 2 --loss 1 --seeds 1 --seconds 0.5 --congestion reno";
    let first = goodput(grid, &json)?;
    let both = goodput("--part fairness --seeds 1 --seconds 0.5 --congestion reno --add", &json)?;
    std::fs::remove_file(&json)?;
    let runs = first["runs"].as_array().ok_or("no runs")?;
    assert_eq!(runs.len(), 3, "the kernel's, and ours at either end: {first}");
    for run in runs {
        let of = |name: &str| run["metrics"][name].as_f64().unwrap_or(f64::NAN);
        assert!(of("mbit_s") > 0.0 && of("link.lost") > 0.0, "{run}");
        assert!(of("link.packets") > of("link.lost") && of("link.cpu_s") > 0.0, "{run}");
        assert_eq!((of("link.drop.receive"), of("link.drop.not_segmented")), (0.0, 0.0), "{run}");
    }
    assert_eq!(both["runs"], first["runs"]);
    let shares = both["fairness"].as_array().ok_or("no shares")?;
    assert_eq!(shares.len(), 3);
    assert!(shares.iter().all(|run| run["share"].as_f64().is_some_and(|share| share > 0.0 && share < 1.0)), "{both}");
    Ok(())
}
