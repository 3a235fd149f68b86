# What nix/ and flake.nix use of nixpkgs's lib, so that they can be evaluated where there is no nixpkgs. The real one takes
# its place with NIXPKGS_LIB=/path/to/nixpkgs/lib.
let
  inherit (builtins)
    all
    attrNames
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    head
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    listToAttrs
    map
    mapAttrs
    match
    replaceStrings
    tail
    zipAttrsWith
    ;

  # A type says what it is made of, and makes one value of several.
  type = description: check: {
    inherit check;
    merge =
      path: values:
      if length values > 1 then
        throw "${path}: defined more than once"
      else if !check (head values) then
        throw "A definition for option `${path}' is not of type `${description}'"
      else
        head values;
  };

  types = rec {
    bool = type "boolean" isBool;
    int = type "signed integer" isInt;
    str = type "string" isString;
    package = type "package" (value: value.type or null == "derivation");
    ints.positive = type "positive integer" (value: isInt value && value > 0);
    ints.unsigned = type "unsigned integer" (value: isInt value && value >= 0);
    strMatching =
      pattern:
      type "string matching the pattern ${pattern}" (value: isString value && match pattern value != null);
    enum = values: type "one of" (value: elem value values);
    nullOr = inner: type "null or something" (value: value == null || inner.check value);
    oneOf = inner: type "one of several" (value: builtins.any (one: one.check value) inner);
    listOf = inner: {
      check = value: isList value && all inner.check value;
      merge = path: values: concatMap (map (value: inner.merge path [ value ])) values;
    };
    attrsOf = inner: {
      check = isAttrs;
      merge = path: zipAttrsWith (name: inner.merge "${path}.${name}");
    };
    anything = {
      check = _: true;
      merge = _: foldl' recursiveUpdate { };
    };
  };

  recursiveUpdate =
    left: right:
    left
    // mapAttrs (
      name: value: if isAttrs value && left ? ${name} then recursiveUpdate left.${name} value else value
    ) right;

  # What a module defines at a path. A condition is not looked at before it matters, since it may depend on other options.
  definitions =
    path: value:
    if value._type or null == "if" then
      let
        found = definitions path value.content;
      in
      if found == [ ] || !value.condition then [ ] else found
    else if path == [ ] then
      [ value ]
    else if value ? ${head path} then
      definitions (tail path) value.${head path}
    else
      [ ];
in
rec {
  inherit (builtins)
    all
    any
    attrNames
    concatStringsSep
    elem
    filter
    isBool
    isList
    replaceStrings
    ;
  inherit types;

  mkOption = option: option // { _type = "option"; };
  mkEnableOption =
    _:
    mkOption {
      type = types.bool;
      default = false;
    };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  literalMD = text: text;

  evalModules =
    { specialArgs, modules }:
    let
      lib = import ./lib.nix;
      call = module: if builtins.isFunction module then module (specialArgs // { inherit lib config; }) else module;
      full = module: {
        options = module.options or { };
        config = if module ? options then module.config or { } else module;
      };
      all = map (module: full (call (if builtins.isPath module then import module else module))) modules;
      options = foldl' recursiveUpdate { } (map (module: module.options) all);
      isOption = node: node._type or null == "option";
      value =
        path: option:
        let
          found = concatMap (module: definitions path module.config) all;
        in
        if found == [ ] then option.default else option.type.merge (concatStringsSep "." path) found;
      tree =
        path:
        mapAttrs (name: node: (if isOption node then value else tree) (path ++ [ name ]) node);
      config = tree [ ] options;
      # Definitions of options that nobody has declared.
      unknown =
        path: declared: defined:
        if defined._type or null == "if" then
          unknown path declared defined.content
        else
          concatMap (
            name:
            let
              here = path ++ [ name ];
            in
            if !(declared ? ${name}) then
              [ (concatStringsSep "." here) ]
            else if isOption declared.${name} then
              [ ]
            else
              unknown here declared.${name} defined.${name}
          ) (attrNames defined);
      strange = concatMap (module: unknown [ ] options module.config) all;
    in
    {
      config = if strange == [ ] then config else throw "The option `${head strange}' does not exist";
    };

  boolToString = value: if value then "true" else "false";
  concatMapStrings = make: list: concatStringsSep "" (map make list);
  escapeURL = replaceStrings [ "%" "/" ":" "?" "#" "&" "=" "+" " " ] [
    "%25"
    "%2F"
    "%3A"
    "%3F"
    "%23"
    "%26"
    "%3D"
    "%2B"
    "%20"
  ];
  filterAttrs =
    keep: set:
    removeAttrs set (filter (name: !keep name set.${name}) (attrNames set));
  genAttrs =
    names: make:
    listToAttrs (
      map (name: {
        inherit name;
        value = make name;
      }) names
    );
  getExe = package: "${package}/bin/${package.meta.mainProgram}";
  hasInfix = part: text: replaceStrings [ part ] [ "" ] text != text;
  importTOML = file: builtins.fromTOML (builtins.readFile file);
  intersectLists = left: filter (value: elem value left);
  makeBinPath = packages: concatStringsSep ":" (map (package: "${package}/bin") packages);
  mapAttrsToList = make: set: map (name: make name set.${name}) (attrNames set);
  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: list: if condition then list else [ ];
  optionalAttrs = condition: set: if condition then set else { };
  optionalString = condition: text: if condition then text else "";

  fileset = {
    unions = files: files;
    toSource = { root, fileset }: if all builtins.pathExists fileset then root else throw "a file is missing";
  };
  licenses = {
    mit = "MIT";
    asl20 = "Apache-2.0";
  };
  platforms.unix = [ ];
  systems.flakeExposed = [
    "x86_64-linux"
    "aarch64-linux"
    "aarch64-darwin"
    "riscv64-linux"
  ];
}
