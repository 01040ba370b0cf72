# What the two modules share: the options, and the unit, which is the one that `install` writes.
{
  lib,
  pkgs,
  self,
}:
let
  inherit (lib) types;

  option =
    {
      type,
      example,
      description,
    }:
    lib.mkOption {
      type = types.nullOr type;
      default = null;
      inherit example;
      description = ''
        ${description}

        With `null`, the default of claude-cellar.
      '';
    };

  variables = {
    storeDir = "CLAUDE_CELLAR_STORE_DIR";
    mountDir = "CLAUDE_CELLAR_MOUNT_DIR";
    scratchDir = "CLAUDE_CELLAR_SCRATCH_DIR";
    maxFds = "CLAUDE_CELLAR_MAX_FDS";
    bundles = "CLAUDE_CELLAR_BUNDLES";
    trashDays = "CLAUDE_CELLAR_TRASH_DAYS";
    sealAfter = "CLAUDE_CELLAR_SEAL_AFTER";
    claudeBin = "CLAUDE_CELLAR_CLAUDE_BIN";
    logLevel = "CLAUDE_CELLAR_LOG";
  };

  # As systemd reads an assignment; its specifiers are expanded within quotes too.
  quoted =
    text:
    if builtins.match "[A-Za-z0-9/._+=:@,-]*" text != null then
      text
    else
      "\"${lib.replaceStrings [ "\\" "\"" "\n" ] [ "\\\\" "\\\"" "\\x0a" ] text}\"";

  # A unit file's sections; what it gives several times is a list.
  sections =
    text:
    let
      entries = lines: map (builtins.match "([^=]+)=(.*)") lines;
      section =
        block:
        let
          lines = lib.splitString "\n" block;
          pair = entry: { ${lib.head entry} = lib.last entry; };
        in
        lib.nameValuePair (lib.removeSuffix "]" (lib.head lines)) (
          lib.mapAttrs (_: values: if lib.length values == 1 then lib.head values else values) (
            lib.zipAttrs (map pair (lib.filter (entry: entry != null) (entries (lib.tail lines))))
          )
        );
    in
    lib.listToAttrs (map section (lib.tail (lib.splitString "\n[" "\n${text}")));

  template = sections (builtins.readFile ../src/claude-cellar.service);
in
{
  # `directory` is the type of directories, `home` how their examples name the home directory.
  options =
    {
      directory,
      home,
      note ? "",
    }:
    {
      enable = lib.mkEnableOption "claude-cellar, which stores Claude Code sessions compressed";

      package = lib.mkOption {
        type = types.package;
        default = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        defaultText = lib.literalMD "the package of claude-cellar's flake";
        example = lib.literalExpression "pkgs.claude-cellar";
        description = "The claude-cellar package to use.";
      };

      storeDir = option {
        type = directory;
        example = "${home}/sessions";
        description = "Where sessions are stored.${note}";
      };

      mountDir = option {
        type = directory;
        example = "${home}/.config/claude/projects";
        description = "Where sessions appear: the projects directory of Claude Code.${note}";
      };

      scratchDir = option {
        type = directory;
        example = "${home}/.cache/claude-cellar";
        description = "Where a plain copy goes that must exist outside the mount.${note}";
      };

      maxFds = option {
        type = types.ints.positive;
        example = 4096;
        description = "Most files that may be open at once through the mount.";
      };

      bundles = option {
        type = types.enum [
          "raw"
          "compress"
        ];
        example = "compress";
        description = "Whether the sessions inside bundles are compressed too.";
      };

      trashDays = option {
        type = types.ints.u32;
        example = 30;
        description = "Days that deleted sessions are kept; with 0 they are not.";
      };

      sealAfter = option {
        type = types.ints.unsigned;
        example = 3600;
        description = "Seconds without a write until a session is compressed thoroughly.";
      };

      claudeBin = option {
        type = types.path;
        example = lib.literalExpression "lib.getExe pkgs.claude-code";
        description = "The Claude binary that `claude-cellar resume` runs.";
      };

      logLevel = option {
        type = types.enum [
          "off"
          "error"
          "warn"
          "info"
          "debug"
          "trace"
        ];
        example = "debug";
        description = "How much goes into the log.";
      };
    };

  # The variables that a configuration sets.
  environment =
    cfg:
    lib.concatMapAttrs (
      name: variable: lib.optionalAttrs (cfg.${name} != null) { ${variable} = toString cfg.${name}; }
    ) variables;

  # The sections of the unit that runs `package` with these variables.
  unit =
    package: environment:
    template
    // {
      Service =
        lib.mapAttrs (
          _: value:
          if lib.isString value then
            lib.replaceStrings [ "@program@" ] [ (lib.getExe package) ] value
          else
            value
        ) template.Service
        // {
          Environment =
            lib.toList template.Service.Environment
            ++ lib.mapAttrsToList (name: value: quoted "${name}=${value}") environment;
        };
      Install = lib.mapAttrs (_: lib.toList) template.Install;
    };
}
