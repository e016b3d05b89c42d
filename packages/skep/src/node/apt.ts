import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { HostCommandError, run } from "./run.ts";

/** What apt's index says of a package's newest version. */
export interface AptPackage {
  readonly name: string;
  readonly version: string;
  readonly architecture: string;
  /** Size of the .deb in bytes. */
  readonly size: number;
  /** SHA-256 of the .deb, lower-case hex. */
  readonly sha256: string;
  /** Names that it depends on, alternatives and versions left out. */
  readonly depends: readonly string[];
}

/**
 * apt as any user may use it: to look packages up and to download them, never to install.
 *
 * Either with the host's own package lists, or with lists of its own below a directory: those are fetched from
 * the host's sources (/etc/apt) and by its keys, for an architecture that the host need not have enabled
 * (`dpkg --add-architecture` would need root), with nothing on the host changed.
 */
export class Apt {
  readonly #configFile: string | undefined;
  readonly architecture: string;

  private constructor(architecture: string, configFile: string | undefined) {
    this.architecture = architecture;
    this.#configFile = configFile;
  }

  /** The host's lists as they are. */
  static host(architecture: string): Apt {
    return new Apt(architecture, undefined);
  }

  /**
   * Lists of its own below `directory` (made where missing), brought up to date now.
   *
   * @throws HostCommandError where apt is missing or no list could be fetched at all. That one source of several
   * fails is not an error here: the look-up of the package says whether it mattered.
   */
  static async private(architecture: string, directory: string): Promise<Apt> {
    const lists = join(directory, "state/lists");
    await mkdir(join(lists, "partial"), { recursive: true });
    await mkdir(join(directory, "cache/archives/partial"), { recursive: true });
    const status = join(directory, "status");
    await writeFile(status, "");
    const configFile = join(directory, "apt.conf");
    // APT::Update hooks of the host expect root and the host's directories.
    const config = [
      `Dir::State "${join(directory, "state")}";`,
      `Dir::State::status "${status}";`,
      `Dir::Cache "${join(directory, "cache")}";`,
      `APT::Architecture "${architecture}";`,
      `APT::Architectures { "${architecture}"; };`,
      'Acquire::Languages "none";',
      "#clear APT::Update::Post-Invoke;",
      "#clear APT::Update::Post-Invoke-Success;",
    ];
    await writeFile(configFile, `${config.join("\n")}\n`);
    const apt = new Apt(architecture, configFile);
    try {
      await apt.#run("apt-get", ["update"]);
    } catch (error) {
      if (!(error instanceof HostCommandError) || error.code === "ERR_HOST_COMMAND_MISSING") throw error;
      const fetched = (await readdir(lists)).some((name) => name.includes("_Packages"));
      if (!fetched) throw error;
    }
    return apt;
  }

  /** The newest version of `name`, or `undefined` where the lists do not have it. */
  async show(name: string): Promise<AptPackage | undefined> {
    let text: string;
    try {
      text = await this.#run("apt-cache", ["show", "--no-all-versions", `${name}:${this.architecture}`]);
    } catch (error) {
      if (error instanceof HostCommandError && error.code === "ERR_HOST_COMMAND") return undefined;
      throw error;
    }
    return parseStanza(text);
  }

  /**
   * Downloads the .deb of exactly `package_` into `directory`; apt checks it against its signed list.
   *
   * @throws HostCommandError where it fails: no network, or a list so old that the mirror has moved on.
   */
  async download(
    package_: AptPackage,
    directory: string,
    onPercent: (percent: number) => void,
  ): Promise<void> {
    const args = [
      "download",
      "-o",
      "APT::Status-Fd=3",
      `${package_.name}:${this.architecture}=${package_.version}`,
    ];
    await this.#run("apt-get", args, directory, (line) => {
      const [kind, , percent] = line.split(":");
      if (kind === "dlstatus" && percent) onPercent(Number.parseFloat(percent));
    });
  }

  #run(command: string, args: string[], cwd?: string, onStatus?: (line: string) => void): Promise<string> {
    const options = ["-q", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30"];
    // As root apt would hand the download to user _apt, who may not write here, and warn about it.
    if (process.getuid?.() === 0) options.push("-o", "APT::Sandbox::User=root");
    return run(command, [...options, ...args], {
      ...(cwd && { cwd }),
      ...(onStatus && { onStatus }),
      ...(this.#configFile && { env: { APT_CONFIG: this.#configFile } }),
    });
  }
}

/** Reads the first stanza of `apt-cache show` (Debian Policy sec. 5.1); `undefined` where a field is missing. */
export function parseStanza(text: string): AptPackage | undefined {
  const fields = new Map<string, string>();
  for (const line of text.split("\n")) {
    if (line === "") break;
    const match = /^([A-Za-z0-9-]+): *(.*)$/.exec(line);
    if (match) fields.set(match[1]!, match[2]!);
  }
  const name = fields.get("Package");
  const version = fields.get("Version");
  const architecture = fields.get("Architecture");
  const size = Number(fields.get("Size"));
  const sha256 = fields.get("SHA256");
  if (!name || !version || !architecture || !sha256 || !Number.isSafeInteger(size)) return undefined;
  const depends = (fields.get("Depends") ?? "")
    .split(",")
    .map((part) => part.trim().split(/[ |(:]/)[0]!)
    .filter((part) => part !== "");
  return { name, version, architecture, size, sha256, depends };
}
